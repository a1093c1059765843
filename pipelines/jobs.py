"""What each command can be asked: one frozen dataclass a pipeline, checked as it is made."""

import re
from dataclasses import dataclass, field, fields
from enum import StrEnum

from pipelines.composition import REQUIRED
from pipelines.flow import ClusterConfig
from pipelines.stream import Actors
from pipelines.tracking import TrackingConfig
from pipelines.where import Keep
from stages.caption import CaptionConfig
from stages.decode import DecodeConfig, DecodeRun
from stages.embed import EmbedConfig, EmbedRun
from stages.generators.config import TAKES_SEVERAL_CALLERS, Backend, GeneratorRun
from stages.index.config import IndexConfig
from stages.schemas import Status
from stages.sources.config import SourceConfig, SourceRun

_REASONS = tuple(status.value for status in Status if status is not Status.OK)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Source(SourceConfig):
    """`source.path=…` and what of it are images; `how` never changes a value."""

    path: str = REQUIRED
    how: SourceRun = field(default_factory=SourceRun)

    def __post_init__(self) -> None:
        super().__post_init__()
        named = frozenset() if self.where is None else Keep(self.where).keys
        if self.metadata is not None and (absent := sorted(named.difference(self.metadata))):
            raise ValueError(f"source.where reads metadata.{absent[0]}, which source.metadata leaves out")

    @property
    def what(self) -> SourceConfig:
        """Without `how`, and of a class that brings neither Hydra nor torch into a process that reads."""
        return SourceConfig(**{one.name: getattr(self, one.name) for one in fields(SourceConfig)})


@dataclass(frozen=True)
class Decoding:
    """`what` changes values and is in the fingerprint; `how` never does."""

    what: DecodeConfig = field(default_factory=DecodeConfig)
    how: DecodeRun = field(default_factory=DecodeRun)


@dataclass(frozen=True)
class Encoder:
    name: str = REQUIRED
    what: EmbedConfig = REQUIRED
    how: EmbedRun = field(default_factory=EmbedRun)
    actors: Actors = field(default_factory=Actors)

    def __post_init__(self) -> None:
        check_name("encoder.name", self.name)
        if self.actors.shards_in_flight > 1:
            raise ValueError(
                f"actors.shards_in_flight must be 1 for an encoder, got {self.actors.shards_in_flight}"
            )


@dataclass(frozen=True)
class Captioner:
    name: str = REQUIRED
    what: CaptionConfig = REQUIRED
    how: GeneratorRun = field(default_factory=GeneratorRun)
    actors: Actors = field(default_factory=Actors)

    def __post_init__(self) -> None:
        check_name("captioner.name", self.name)
        backend, shards = self.what.generator.backend, self.actors.shards_in_flight
        if shards > 1 and backend not in TAKES_SEVERAL_CALLERS:
            able = ", ".join(one.value for one in TAKES_SEVERAL_CALLERS)
            raise ValueError(
                f"actors.shards_in_flight must be 1 for {backend.value}, more only for {able}; got {shards}"
            )

        for section, wanted in (("server", Backend.OPENAI), ("engine", Backend.VLLM)):
            if getattr(self.how, section) is not None and backend is not wanted:
                raise ValueError(f"how.{section} is for backend {wanted.value}, got {backend.value}")

    @property
    def asks_servers(self) -> bool:
        return self.what.generator.backend is Backend.OPENAI


@dataclass(frozen=True)
class TagsConfig:
    """`labels`: a file with one label a line, of which every image gets the `count` nearest."""

    labels: str = REQUIRED
    count: int = 5
    template: str = "a photo of {label}"


@dataclass(frozen=True)
class ContextConfig:
    """What else is known of the images, for prompts.

    `metadata`, `questions`: files of rows with the column `uri` or `image_id`; the first of any columns, the
    second of questions about single images. `captions`: the dataset that `{caption}` reads; unset, that of
    the night's captioner. `tags`: labels for `{tags}`.
    """

    metadata: str | None = None
    questions: str | None = None
    captions: str | None = None
    tags: TagsConfig | None = None

    def __post_init__(self) -> None:
        if self.captions is not None:
            check_name("context.captions", self.captions)


@dataclass(frozen=True)
class ReportConfig:
    """What the page of a run shows. `queries`: texts to search for; unset, some captions of the run."""

    pictures: int = 24
    queries: tuple[str, ...] = ()
    searches: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("pictures", "searches"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must not be negative, got {getattr(self, key)}")


@dataclass(frozen=True)
class NightlyConfig:
    """The main job: a folder of images to captions, answers, embeddings, an index and a report."""

    corpus: str = REQUIRED
    source: Source = REQUIRED
    decode: Decoding = field(default_factory=Decoding)
    encoder: Encoder | None = None
    captioner: Captioner | None = None
    answerer: Captioner | None = None
    questions: tuple[str, ...] = ()
    answers: str | None = None
    context: ContextConfig = field(default_factory=ContextConfig)
    knowledge: str | None = None
    index: IndexConfig | None = None
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    overwrite: tuple[str, ...] = ()
    limit: int | None = None
    retry: tuple[str, ...] = ()
    reuse: bool = True
    max_deleted_ratio: float = 0.5
    max_reject_ratio: float = 0.2
    dry_run: bool = False
    steal_lock: bool = False

    def __post_init__(self) -> None:
        check_text("corpus", self.corpus)
        if self.encoder is None and self.captioner is None and self.answerer is None:
            raise ValueError("encoder, captioner and answerer are all null: at least one must be set")
        if self.asks and self.answering is None:
            raise ValueError("questions need a model that answers them: set answerer or captioner")
        if self.answerer is not None and not self.asks:
            raise ValueError("answerer is set and nothing is asked: set questions or context.questions")
        if self.answers is not None:
            check_name("answers", self.answers)
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1 or unset, got {self.limit}")
        for reason in self.retry:
            if reason not in _REASONS:
                raise ValueError(f"retry must be of {', '.join(_REASONS)}, got {reason}")
        for key in ("max_deleted_ratio", "max_reject_ratio"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key} must be from 0 to 1, got {getattr(self, key)}")

    @property
    def asks(self) -> bool:
        return bool(self.questions) or self.context.questions is not None

    @property
    def answering(self) -> Captioner | None:
        """Who answers questions: the answerer, or the captioner where there is none."""
        return self.answerer or self.captioner


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True)
class DescribeConfig:
    corpus: str = REQUIRED
    format: Format = Format.TABLE

    def __post_init__(self) -> None:
        check_text("corpus", self.corpus)


@dataclass(frozen=True)
class CompactConfig:
    """Few big files for many small ones, without the rows of items that are gone."""

    corpus: str = REQUIRED
    target_mb: int = 128
    dry_run: bool = False
    steal_lock: bool = False
    format: Format = Format.TABLE

    def __post_init__(self) -> None:
        check_text("corpus", self.corpus)
        if self.target_mb < 1:
            raise ValueError(f"target_mb must be at least 1, got {self.target_mb}")


@dataclass(frozen=True)
class ForgetConfig:
    """What is to be taken down: a file of URIs, of image ids, or of SHA-256 digests, one a line."""

    corpus: str = REQUIRED
    uris: str | None = None
    ids: str | None = None
    sha256: str | None = None
    steal_lock: bool = False

    def __post_init__(self) -> None:
        check_text("corpus", self.corpus)
        if sum(file is not None for file in (self.uris, self.ids, self.sha256)) != 1:
            raise ValueError("set one of uris=FILE, ids=FILE and sha256=FILE")


@dataclass(frozen=True)
class VerifyConfig:
    """Every byte of a corpus read again, and what is damaged set aside."""

    corpus: str = REQUIRED
    repair: bool = False
    steal_lock: bool = False
    format: Format = Format.TABLE

    def __post_init__(self) -> None:
        check_text("corpus", self.corpus)


def check_name(key: str, name: str) -> None:
    """A dataset's name becomes a folder."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{key} must be made of letters, digits, '.', '_' and '-', got {name!r}")


def check_text(key: str, text: str) -> None:
    if not text.strip():
        raise ValueError(f"{key} must not be empty")
