"""The configuration: dataclasses, their schema in Hydra, and composition with errors of one line."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import conf
from pipelines.composition import build, checked, explain, thawed, unset_sections
from pipelines.flow import ClusterConfig
from pipelines.stream import Actors
from pipelines.tracking import TrackingConfig
from stages.caption import CaptionConfig
from stages.decode import DecodeConfig, DecodeRun
from stages.embed import EmbedConfig, EmbedRun
from stages.generators.protocol import GeneratorRun
from stages.index.config import IndexConfig
from stages.schemas import Status
from stages.sources.folder import FolderConfig, FolderRun

CONF = Path(conf.__file__).parent
_GROUPS = frozenset(folder.name for folder in CONF.iterdir() if folder.is_dir())
_REASONS = tuple(status.value for status in Status if status is not Status.OK)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ConfigError(Exception):
    """The configuration is wrong; the message is one line that names the key and what is allowed."""


@dataclass(frozen=True)
class Source(FolderConfig):
    """`source.path=…` and what counts as an image; `how` never changes a value."""

    path: str = MISSING
    how: FolderRun = field(default_factory=FolderRun)


@dataclass(frozen=True)
class Decoding:
    """`what` changes values and is in the fingerprint; `how` never does."""

    what: DecodeConfig = field(default_factory=DecodeConfig)
    how: DecodeRun = field(default_factory=DecodeRun)


@dataclass(frozen=True)
class Encoder:
    name: str = MISSING
    what: EmbedConfig = MISSING
    how: EmbedRun = field(default_factory=EmbedRun)
    actors: Actors = field(default_factory=Actors)

    def __post_init__(self) -> None:
        check_name("encoder.name", self.name)


@dataclass(frozen=True)
class Captioner:
    name: str = MISSING
    what: CaptionConfig = MISSING
    how: GeneratorRun = field(default_factory=GeneratorRun)
    actors: Actors = field(default_factory=Actors)

    def __post_init__(self) -> None:
        check_name("captioner.name", self.name)


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

    corpus: str = MISSING
    source: Source = MISSING
    decode: Decoding = field(default_factory=Decoding)
    encoder: Encoder | None = None
    captioner: Captioner | None = None
    questions: tuple[str, ...] = ()
    answers: str | None = None
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
        if self.encoder is None and self.captioner is None:
            raise ValueError("encoder and captioner are both null: at least one must be set")
        if self.questions and self.captioner is None:
            raise ValueError("questions need a model that answers them: set captioner")
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


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True)
class SearchConfig:
    corpus: str = MISSING
    text: str | None = None
    image: str | None = None
    k: int = 10
    index: str | None = None
    format: Format = Format.TABLE

    def __post_init__(self) -> None:
        check_text("corpus", self.corpus)
        if (self.text is None) == (self.image is None):
            raise ValueError('set either text="what to look for" or image=FILE')
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")


@dataclass(frozen=True)
class DescribeConfig:
    corpus: str = MISSING
    format: Format = Format.TABLE

    def __post_init__(self) -> None:
        check_text("corpus", self.corpus)


@dataclass(frozen=True)
class CompactConfig:
    """Few big files for many small ones, without the rows of items that are gone."""

    corpus: str = MISSING
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

    corpus: str = MISSING
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

    corpus: str = MISSING
    repair: bool = False
    steal_lock: bool = False
    format: Format = Format.TABLE

    def __post_init__(self) -> None:
        check_text("corpus", self.corpus)


PIPELINES: dict[str, type[Any]] = {
    "nightly": NightlyConfig,
    "search": SearchConfig,
    "describe": DescribeConfig,
    "compact": CompactConfig,
    "verify": VerifyConfig,
    "forget": ForgetConfig,
}


def check_name(key: str, name: str) -> None:
    """A dataset's name becomes a folder."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{key} must be made of letters, digits, '.', '_' and '-', got {name!r}")


def check_text(key: str, text: str) -> None:
    if not text.strip():
        raise ValueError(f"{key} must not be empty")


def load(pipeline: str, overrides: Sequence[str]) -> Any:
    """Composes `conf/PIPELINE.yaml` with the overrides into the pipeline's frozen dataclass.

    Raises: ConfigError, before anything is read or written.
    """
    schema = PIPELINES[pipeline]
    ConfigStore.instance().store(name=f"{pipeline}_schema", node=thawed(schema))
    try:
        texts = [checked(text, schema, _GROUPS) for text in overrides]
        parsed = [_parse(text) for text in texts]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            groups = [text for text, override in zip(texts, parsed, strict=True) if _is_choice(override)]
            composed = compose(pipeline, groups)
        for override in parsed:
            if not _is_choice(override):
                _set(composed, override, schema)
        return build(schema, OmegaConf.to_container(composed, resolve=True, throw_on_missing=True))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(explain(error)) from error


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        key, _, value = text.partition("=")
        raise ValueError(f"{key} cannot be {value}: it is not a value of YAML") from error


def _is_choice(override: Override) -> bool:
    return override.is_delete() or override.key_or_group in _GROUPS


def _set(composed: DictConfig, override: Override, schema: type[Any]) -> None:
    """Sets one key after composition, so that it may lie in a section that is unset by default."""
    key = override.key_or_group
    try:
        for section, kind in unset_sections(key, schema):
            if OmegaConf.select(composed, section) is None:
                OmegaConf.update(composed, section, OmegaConf.structured(thawed(kind)), merge=False)
        OmegaConf.update(composed, key, override.value())
    except OmegaConfBaseException as error:
        raise ValueError(f"{key}: {str(error).splitlines()[0]}") from error


def as_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain values. It may hold secrets: redact it before it is saved."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def to_yaml(config: Mapping[str, Any]) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(dict(config)))


def menu(pipeline: str) -> str:
    """The commented YAML of a pipeline, and of every option of its groups."""
    files = [CONF / f"{pipeline}.yaml"]
    if pipeline == "nightly":
        files += sorted(CONF.glob("*/*.yaml"))
    return "\n".join(f"# --- {file.relative_to(CONF)}\n{file.read_text('utf-8')}" for file in files)
