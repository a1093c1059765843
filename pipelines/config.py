"""The configuration: the schema of each job in Hydra, and composition with errors of one line."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import conf
from pipelines.composition import build, checked, explain, thawed, unset_sections
from pipelines.evaluate_jobs import EvaluateConfig
from pipelines.export_jobs import ExportConfig
from pipelines.index_jobs import IndexJob, IndexPlanJob, NeighboursConfig, SearchConfig
from pipelines.jobs import CompactConfig, DescribeConfig, ForgetConfig, NightlyConfig, VerifyConfig
from pipelines.text_jobs import ChatConfig, FuseConfig, PreviewConfig

CONF = Path(conf.__file__).parent
_GROUPS = frozenset(folder.name for folder in CONF.iterdir() if folder.is_dir()) | {"answerer"}


class ConfigError(Exception):
    """The configuration is wrong; the message is one line that names the key and what is allowed."""


PIPELINES: dict[str, type[Any]] = {
    "nightly": NightlyConfig,
    "chat": ChatConfig,
    "preview": PreviewConfig,
    "search": SearchConfig,
    "describe": DescribeConfig,
    "compact": CompactConfig,
    "index": IndexJob,
    "index_neighbours": NeighboursConfig,
    "index_plan": IndexPlanJob,
    "verify": VerifyConfig,
    "forget": ForgetConfig,
    "fuse": FuseConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
}


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
            groups = [
                _choice(text) for text, override in zip(texts, parsed, strict=True) if _is_choice(override)
            ]
            composed = compose(pipeline, groups)
        for override in parsed:
            if not _is_choice(override):
                _set(composed, override, schema)
        return build(schema, OmegaConf.to_container(composed, resolve=True, throw_on_missing=True))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(explain(error)) from error


def option(group: str, name: str, schema: type[Any]) -> Any:
    """One option of a group by itself, as `schema`. Raises: ConfigError."""
    allowed = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
    if name not in allowed:
        raise ConfigError(f"{group} must be one of {', '.join(allowed)}, got {name}")
    try:
        read = OmegaConf.merge(
            OmegaConf.structured(thawed(schema)), OmegaConf.load(CONF / group / f"{name}.yaml")
        )
        return build(schema, OmegaConf.to_container(read, resolve=True, throw_on_missing=True), group)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(explain(error)) from error


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        key, _, value = text.partition("=")
        raise ValueError(f"{key} cannot be {value}: it is not a value of YAML") from error


def _is_choice(override: Override) -> bool:
    return override.is_delete() or override.key_or_group in _GROUPS


def _choice(text: str) -> str:
    """Answerers are chosen from the captioners: `answerer=NAME` is Hydra's `captioner@answerer=NAME`."""
    return re.sub(r"^(~?)answerer\b", r"\1captioner@answerer", text)


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
    file = CONF / f"{pipeline}.yaml"
    defaults = OmegaConf.select(OmegaConf.load(file), "defaults")
    chosen = [next(iter(entry)) for entry in defaults if not isinstance(entry, str)]
    files = [file, *sorted(option for group in chosen for option in CONF.glob(f"{group}/*.yaml"))]
    return "\n".join(f"# --- {file.relative_to(CONF)}\n{file.read_text('utf-8')}" for file in files)
