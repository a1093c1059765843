"""What an evaluation needs and the corpus lacks, made as a night makes it."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from pipelines.config import ConfigError
from pipelines.evaluate_jobs import EvaluateConfig, Task
from pipelines.evaluation.answers import pictures_of
from pipelines.evaluation.formats import EvaluationError
from pipelines.evaluation.matching import match_items
from pipelines.evaluation.predictions import ITEMS
from pipelines.evaluation.questions import read_questions
from pipelines.jobs import Captioner, ContextConfig, Encoder, NightlyConfig
from pipelines.nightly import nightly
from pipelines.survey import list_source

T = TypeVar("T", Encoder, Captioner)


def make_what_is_missing(config: EvaluateConfig, screen: Console) -> list[str]:
    """Returns what a person should know of the night. Raises: ConfigError where no model is set; what a night
    raises."""
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder:
        return nightly(_night(config, Path(folder)), screen).notes


def _night(config: EvaluateConfig, folder: Path) -> NightlyConfig:
    assert config.corpus is not None
    assert config.source is not None
    name = str(config.dataset)
    night: dict[str, Any] = {
        "corpus": config.corpus,
        "source": config.source,
        "decode": config.decode,
        "cluster": config.cluster,
        "tracking": config.tracking,
    }
    try:
        match config.task:
            case Task.CAPTIONS:
                return NightlyConfig(**night, captioner=_named(config.captioner, name, "captioner"))
            case Task.VQA:
                answerer = config.answerer or config.captioner
                _named(answerer, name, "answerer")
                asked = ContextConfig(questions=str(_ask(config, folder)))
                return NightlyConfig(**night, answerer=answerer, answers=name, context=asked)
            case _:
                encoder = _named(config.encoder, name, "encoder")
                return NightlyConfig(**night, encoder=encoder, index=config.index)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _named(model: T | None, name: str, key: str) -> T:
    if model is None:
        raise ConfigError(f"{key} must be set: source is set, and nothing else makes what is evaluated")
    return replace(model, name=name)


def _ask(config: EvaluateConfig, folder: Path) -> Path:
    """The questions by the URI of their picture, under their ids, as a file for `context.questions`."""
    assert config.source is not None
    questions = read_questions(str(config.annotations), config.questions)
    listed = list_source(config.source).rows
    columns = [pa.array(range(len(listed)), pa.int64()), listed["uri"], pa.nulls(len(listed), pa.string())]
    items, pictures = pa.table(columns, ITEMS), pictures_of(questions.rows)
    found = match_items(items, pictures, config.key, questions.plain)
    uris = listed["uri"].to_pylist()
    of_key = {
        key: uris[row] for key, row in zip(pictures["key"].to_pylist(), found.rows, strict=True) if row >= 0
    }
    rows = questions.rows
    uri = pa.array([of_key.get(key) for key in rows["key"].to_pylist()], pa.string())
    asked = pa.table({"uri": uri, "name": rows["question_id"], "question": rows["question"]})
    asked = asked.filter(pc.is_valid(asked["uri"]))
    if not len(asked) or asked["question"].null_count:
        what = "picture is in the source" if not len(asked) else "text is known: set questions=FILE"
        raise EvaluationError(f"of the questions of {config.annotations} no {what}")
    pq.write_table(asked, folder / "questions.parquet")
    return folder / "questions.parquet"
