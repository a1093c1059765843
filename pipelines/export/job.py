"""What the formats share: an export that is under way."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pipelines.corpus import Corpus
from pipelines.export.chosen import Chosen, Chunk, Told, cut
from pipelines.export.tally import Tally
from pipelines.export.target import Target
from pipelines.export_jobs import ExportConfig
from stages.schemas import ITEMS


@dataclass
class Job:
    """`files`: how many were written; `notes`: lines for a person."""

    corpus: Corpus
    config: ExportConfig
    chosen: Chosen
    target: Target
    told: Told
    tally: Tally = field(default_factory=Tally)
    files: int = 0
    notes: list[str] = field(default_factory=list)

    def chunks(self, columns: Sequence[str] = ITEMS.names) -> Iterator[Chunk]:
        """All that is exported, once: what is left out is counted, and the progress told."""
        items = 0
        for done, chunk in enumerate(self.chosen.chunks(self.tally, columns), 1):
            items += len(chunk.rows)
            self.told(done, len(self.chosen.shards), items)
            if len(chunk.rows):
                yield chunk

    def survey(self, columns: Sequence[str]) -> Iterator[Chunk]:
        """The same, beforehand and uncounted."""
        return self.chosen.chunks(Tally(), columns)

    def write_files(self, rows_per_file: int, write: Callable[[int, Iterable[Chunk]], Tally]) -> None:
        """A file, or what belongs together, for each so many items; those that are there already stay."""
        for number, chunks in cut(self.chunks(), self.config.rows_per_file or rows_per_file):
            tally = self.target.done(number)
            if tally is None:
                tally = write(number, chunks)
                self.target.finish(number, tally)
            self.tally.add(tally)
            self.files += 1
