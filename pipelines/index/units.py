"""Units: the vectors of some millions of rows, encoded by one worker and written as lists.

A unit is complete when its record is there. Killed in between, the same command encodes what is missing.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pipelines.corpus import Corpus, fingerprint
from pipelines.index.layout import TRUTH, UNITS, PartRecord, ShardRange, ranges_of, shards_in
from pipelines.index.parts import is_whole, write_part
from pipelines.index.reading import read_batches
from pipelines.index.templates import open_template
from pipelines.index.workers import Crew, run_tasks
from stages.index.encode import Encoder
from stages.index.exact import ExactSearch, Queries, pack_neighbours
from stages.index.lists import write_lists
from stages.index.sample import BottomK
from stages.index.vectors import Codes, Ids, check_unique, unit_float32
from stages.schemas import SHARD_ROWS

# Fewer are done by one worker before others have started.
_LEAST_ROWS = 65_536
# Units of a corpus that is not big enough for full ones: enough for every worker to have some.
_UNITS = 16
_FIT_ROWS = 4_096


def cut_units(shards: Sequence[int], unit_rows: int) -> list[tuple[ShardRange, ...]]:
    """Ascending shards as units of up to `unit_rows` rows, cut by how many they are and nothing else."""
    rows = min(unit_rows, max(_LEAST_ROWS, 1 << (len(shards) * SHARD_ROWS // _UNITS).bit_length()))
    step = max(1, rows // SHARD_ROWS)
    return [ranges_of(shards[start : start + step]) for start in range(0, len(shards), step)]


@dataclass(frozen=True)
class Filling:
    """What units are filled with. `gone`: ids, ascending, that do not enter."""

    corpus: Corpus
    name: str
    template: str
    embeddings: str
    gone: Ids
    queries: Queries
    device: str = "cpu"

    def unit_id(self, shards: tuple[ShardRange, ...]) -> str:
        # Texts of a file all have the id -1: only their vectors tell two files apart.
        asked = hashlib.sha256(self.queries.ids.tobytes() + self.queries.vectors.tobytes()).hexdigest()
        return fingerprint(
            {"template": self.template, "embeddings": self.embeddings, "shards": shards, "queries": asked}
        )


@dataclass(frozen=True)
class Progress:
    """`unit` is there now, and so are `done` of `total`."""

    unit: str
    done: int
    total: int


def fill_units(filling: Filling, shards: Sequence[int], unit_rows: int, crew: Crew) -> Iterator[Progress]:
    """Every unit of these shards, as it is there; those that a killed build left come first."""
    wanted = {filling.unit_id(unit): unit for unit in cut_units(shards, unit_rows)}
    whole = [unit for unit in wanted if is_whole(filling.corpus, filling.name, (UNITS, unit))]
    for done, unit in enumerate(whole, 1):
        yield Progress(unit, done, len(wanted))
    missing = [wanted[unit] for unit in wanted if unit not in whole]
    ended = run_tasks("add", partial(AddUnit, filling), missing, crew)
    for done, (_, unit) in enumerate(ended, len(whole) + 1):
        yield Progress(unit, done, len(wanted))


class AddUnit:
    """A worker: holds the template, and encodes one range of shards after the other."""

    def __init__(self, filling: Filling) -> None:
        self._filling = filling
        self._template = open_template(filling.corpus, filling.name, filling.template)
        self._encoder = Encoder(self._template, filling.device)

    def __call__(self, shards: tuple[ShardRange, ...]) -> str:
        """Writes the unit and returns its name. Raises: VectorError, CorpusError."""
        filling, template = self._filling, self._template
        unit, numbers = filling.unit_id(shards), shards_in(shards)
        rows = _Rows.room_for(len(numbers) * SHARD_ROWS, template.code_size)
        exact = ExactSearch(filling.queries.vectors, filling.queries.own_ids)
        sample = BottomK(_FIT_ROWS, seed=0)
        for ids, vectors in read_batches(filling.corpus, filling.name, numbers, filling.gone):
            rows.add(ids, *self._encoder(vectors))
            exact.add(ids, vectors)
            sample.add(ids, vectors)
        check_unique(rows.ids)
        fit = asdict(template.fit(unit_float32(sample.result()[1], template.dim))) if rows.count else None
        write_part(
            filling.corpus,
            filling.name,
            (UNITS, unit),
            lambda stream: write_lists(stream, rows.numbers, rows.ids, rows.codes, template.nlist),
            {TRUTH: pack_neighbours(exact.result())},
            PartRecord(
                filling.template, filling.embeddings, shards, 0, template.nlist, template.code_size, {}, fit
            ),
        )
        return unit


@dataclass
class _Rows:
    """Encoded rows in memory, as many as there is room for. Codes of 64 bytes: 80 bytes a row."""

    all_numbers: npt.NDArray[np.int64]
    all_ids: Ids
    all_codes: Codes
    count: int = 0

    @classmethod
    def room_for(cls, rows: int, code_size: int) -> "_Rows":
        return cls(np.empty(rows, np.int64), np.empty(rows, np.int64), np.empty((rows, code_size), np.uint8))

    def add(self, ids: Ids, numbers: npt.NDArray[np.int64], codes: Codes) -> None:
        place = slice(self.count, self.count + len(ids))
        self.all_ids[place], self.all_numbers[place], self.all_codes[place] = ids, numbers, codes
        self.count += len(ids)

    @property
    def ids(self) -> Ids:
        return self.all_ids[: self.count]

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        return self.all_numbers[: self.count]

    @property
    def codes(self) -> Codes:
        return self.all_codes[: self.count]
