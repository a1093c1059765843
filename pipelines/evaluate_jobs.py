"""What `darkroom evaluate` can be asked."""

from dataclasses import dataclass, field
from enum import StrEnum

from pipelines.composition import REQUIRED
from pipelines.flow import ClusterConfig
from pipelines.jobs import Captioner, Decoding, Encoder, Format, Source, check_name, check_text
from pipelines.tracking import TrackingConfig
from stages.index.config import IndexConfig
from stages.metrics.vqa import Normalization


class Task(StrEnum):
    CAPTIONS = "captions"
    VQA = "vqa"
    RETRIEVAL = "retrieval"
    CLASSIFICATION = "classification"


class Tokenisation(StrEnum):
    """How captions become words."""

    PTB = "ptb"  # as the COCO caption evaluation does
    NONE = "none"  # they are tokens already, with spaces between them


class Metric(StrEnum):
    """How answers are compared with those of people."""

    ACCURACY = "accuracy"  # of VQA: three of the other people agree
    TEXTVQA = "textvqa"  # the same, always normalised as EvalAI's server does
    ANLS = "anls"  # of DocVQA: edit distance
    EXACT = "exact"  # equal to one of them, but for case and white space around


class Gallery(StrEnum):
    """Among which images a text is looked for."""

    CORPUS = "corpus"
    REFERENCES = "references"  # those with references, as benchmarks have it


_FILES = (
    "predictions",
    "references",
    "questions",
    "annotations",
    "labels",
    "templates",
    "out",
    "against",
    "meteor",
)
_TAKES = {
    Task.CAPTIONS: ("captions", "predictions", "references", "split", "tokenisation", "meteor"),
    Task.VQA: ("answers", "predictions", "questions", "annotations", "metric", "normalisation"),
    Task.RETRIEVAL: ("embeddings", "references", "split", "gallery"),
    Task.CLASSIFICATION: ("embeddings", "references", "labels", "templates"),
}
_OF_TASKS = tuple(dict.fromkeys(key for keys in _TAKES.values() for key in keys))


@dataclass(frozen=True)
class EvaluateConfig:
    """Predictions of a corpus or of a file, and references to hold against them.

    `captions`, `answers`, `embeddings`: datasets of the corpus; with `source` they are made first, as far as
    they lack something. `out`: where runs go without a corpus. `against`: a run to compare with.
    """

    task: Task = REQUIRED
    corpus: str | None = None
    out: str | None = None
    captions: str | None = None
    answers: str | None = None
    embeddings: str | None = None
    predictions: str | None = None
    references: str | None = None
    split: str | None = None
    questions: str | None = None
    annotations: str | None = None
    labels: str | None = None
    templates: str | None = None
    key: str = "auto"
    strict: bool = True
    tokenisation: Tokenisation | None = None
    meteor: str | None = None
    metric: Metric | None = None
    gallery: Gallery | None = None
    normalisation: Normalization | None = None
    against: str | None = None
    resamples: int = 1000
    seed: int = 0
    worst: int = 24
    source: Source | None = None
    decode: Decoding = field(default_factory=Decoding)
    encoder: Encoder | None = None
    captioner: Captioner | None = None
    answerer: Captioner | None = None
    index: IndexConfig | None = None
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    format: Format = Format.TABLE

    def __post_init__(self) -> None:
        for key in _FILES:
            if getattr(self, key) is not None:
                check_text(key, getattr(self, key))
        for key in ("captions", "answers", "embeddings"):
            if getattr(self, key) is not None:
                check_name(key, getattr(self, key))
        for key in _OF_TASKS:
            if getattr(self, key) is not None and key not in _TAKES[self.task]:
                allowed = ", ".join(_TAKES[self.task])
                raise ValueError(f"{key} is not for task {self.task.value}, which takes {allowed}")
        self._check_places()
        self._check_task()
        if self.resamples < 1:
            raise ValueError(f"resamples must be at least 1, got {self.resamples}")
        for key in ("seed", "worst"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must not be negative, got {getattr(self, key)}")

    def _check_places(self) -> None:
        if self.corpus is None and self.out is None:
            raise ValueError("set corpus=DIR, or out=DIR for runs without a corpus")
        if self.corpus is None and self.predictions is None:
            raise ValueError("corpus must be set where there is no predictions=FILE")
        if self.source is not None and self.predictions is not None:
            raise ValueError("source is set and nothing is to be made: predictions are in a file")

    def _check_task(self) -> None:
        wanted = "annotations" if self.task is Task.VQA else "references"
        if getattr(self, wanted) is None:
            raise ValueError(f"{wanted} must be set: {wanted}=FILE")
        said = {Task.CAPTIONS: "captions", Task.VQA: "answers"}.get(self.task, "embeddings")
        if (self.predictions is None) == (self.dataset is None):
            predictions = " or predictions=FILE" if self.task in (Task.CAPTIONS, Task.VQA) else ""
            raise ValueError(f"set {said}=NAME{predictions}")

    @property
    def dataset(self) -> str | None:
        """The dataset that is evaluated: the one that is named, or that of the model that makes it."""
        maker: Captioner | Encoder | None
        match self.task:
            case Task.CAPTIONS:
                named, maker = self.captions, self.captioner
            case Task.VQA:
                named, maker = self.answers, self.answerer or self.captioner
            case _:
                named, maker = self.embeddings, self.encoder
        return named or (maker.name if maker and self.source else None)

    @property
    def place(self) -> str:
        """Where the run's record goes."""
        return self.out or self.corpus or ""
