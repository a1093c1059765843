"""What a run did, as plain data: the report, the terminal and metrics.json are written from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pipelines.index_facts import IndexFacts


class Outcome(StrEnum):
    """How a run ended."""

    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(frozen=True)
class Totals:
    """`items` of the whole corpus; those of this run: `new`, of which `rejected`; `seconds` of wall time."""

    items: int
    new: int
    rejected: int
    seconds: float

    @property
    def ok(self) -> int:
        return self.new - self.rejected

    @property
    def items_per_s(self) -> float:
        return self.new / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class StageRow:
    """One stage in this run: `rows` in, `seconds` spent in it, summed over its `workers`."""

    name: str
    rows: int
    seconds: float
    rejected: int = 0
    workers: int = 1

    @property
    def rows_per_s(self) -> float:
        """Rows a second of one worker."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Example:
    uri: str
    error: str


@dataclass(frozen=True)
class Reject:
    """A reason (a status), how many items have it in `dataset`, and a few of them."""

    reason: str
    count: int
    examples: tuple[Example, ...] = ()
    dataset: str = "items"


@dataclass(frozen=True)
class PatchSavings:
    """Patches that `model` was given, and what they would have been without regard to detail."""

    model: str
    patches: int
    undetailed: int

    @property
    def saved(self) -> float:
        """Share in 0..1."""
        return 1 - self.patches / self.undetailed if self.undetailed else 0.0


@dataclass(frozen=True)
class Answer:
    question: str
    answer: str


@dataclass(frozen=True)
class Told:
    """A key of the source's metadata and its value, cut."""

    name: str
    value: str


@dataclass(frozen=True)
class Picture:
    """`thumbnail`: a data URI of `report.thumbnail`. `original_caption`, `told`: what the source says."""

    thumbnail: str
    uri: str
    image_id: int
    caption: str | None = None
    answers: tuple[Answer, ...] = ()
    original_caption: str | None = None
    told: tuple[Told, ...] = ()


@dataclass(frozen=True)
class Hit:
    """`score`: cosine similarity; `thumbnail` None where the source no longer has the image.

    `original_caption` and `metadata`, a JSON object as text, are what the source says of it.
    """

    score: float
    image_id: int
    uri: str
    caption: str | None = None
    thumbnail: str | None = None
    original_caption: str | None = None
    metadata: str | None = None


@dataclass(frozen=True)
class SampleSearch:
    """A search by text, or by the image in `thumbnail`."""

    query: str
    hits: tuple[Hit, ...]
    thumbnail: str | None = None


@dataclass(frozen=True)
class Model:
    """`role`: the dataset that it fills, such as `captions/pocket`."""

    role: str
    name: str
    fingerprint: str


@dataclass(frozen=True)
class Command:
    """A line for the shell, and what it is for."""

    purpose: str
    line: str


@dataclass(frozen=True)
class Dataset:
    """A dataset as it lies in the corpus. `rejects`: rows by status, `ok` left out."""

    name: str
    shards: int
    rows: int
    rejects: Mapping[str, int]
    fingerprint: str
    size_bytes: int


@dataclass(frozen=True)
class MetadataKey:
    """A key of metadata: how many items have a value for it, by the type of the value."""

    name: str
    types: Mapping[str, int]

    @property
    def count(self) -> int:
        return sum(self.types.values())


@dataclass(frozen=True)
class TellsOfItems:
    """What the source says of `looked_at` items, of all `items` or of some shards spread over them.

    `captions`: how many have an original caption; `keys` of metadata, the most frequent first.
    """

    items: int
    looked_at: int
    captions: int
    keys: tuple[MetadataKey, ...]


@dataclass(frozen=True)
class Compacted:
    """What compaction made of the files of a dataset, or of the plan. `bytes_after`: None in a dry run."""

    name: str
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int | None
    rows_dropped: int


@dataclass(frozen=True)
class Compaction:
    """`indexes`: those that were built again, without the vectors of items that are gone."""

    datasets: tuple[Compacted, ...]
    indexes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written. `repaired`: what was done about it; None where nothing was."""

    path: str
    problem: str
    repaired: str | None = None


@dataclass(frozen=True)
class Verification:
    """What a look at every byte found. `unfinished`: how many planned shards a dataset lacks; no damage."""

    damages: tuple[Damage, ...]
    unfinished: Mapping[str, int]
    notes: tuple[str, ...]
    files: int
    size_bytes: int

    @property
    def sound(self) -> bool:
        """Whether there was no damage, or none is left."""
        return all(damage.repaired is not None for damage in self.damages)


@dataclass(frozen=True)
class Report:
    """All of a run. `source`: what became of the images beside new ones, a line; empty for nothing.

    `notes`: lines that a person should not miss, such as a tracking failure.
    """

    pipeline: str
    run: str
    corpus: str
    started: datetime
    totals: Totals
    source: str = ""
    outcome: Outcome = Outcome.COMPLETE
    stages: tuple[StageRow, ...] = ()
    rejects: tuple[Reject, ...] = ()
    savings: tuple[PatchSavings, ...] = ()
    indexes: tuple[IndexFacts, ...] = ()
    pictures: tuple[Picture, ...] = ()
    searches: tuple[SampleSearch, ...] = ()
    models: tuple[Model, ...] = ()
    commands: tuple[Command, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class IndexReport:
    """All of a run that built, grew or merged an index. `added`: vectors that it encoded.

    `phases`: seconds of wall time. `outcome`: failed where searches do not read what was built.
    """

    run: str
    corpus: str
    started: datetime
    seconds: float
    index: IndexFacts
    added: int = 0
    outcome: Outcome = Outcome.COMPLETE
    phases: Mapping[str, float] = field(default_factory=dict)
    commands: tuple[Command, ...] = ()
    notes: tuple[str, ...] = ()
    pipeline: str = "index"
