"""The record of an evaluation under `runs/RUN/`, and those of earlier ones."""

import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines.config import as_dict, to_yaml
from pipelines.corpus import Corpus, CorpusError
from pipelines.evaluation.facts import EvaluationReport, Past, Score
from pipelines.evaluation.formats import EvaluationError
from pipelines.evaluation.taken_down import ITEMS, SCORES
from pipelines.redact import redact
from pipelines.report import render
from pipelines.tracking import Tracker

PAGE = "report.html"
_RUNS = "runs"
_PAST = 20
"""Earlier runs on the page, at most."""


@dataclass(frozen=True)
class Stored:
    """A run that was kept. `folder`: below the place of its corpus."""

    place: Corpus
    folder: str
    found: Mapping[str, Any]

    @property
    def run(self) -> str:
        return str(self.found["run"])

    @property
    def of(self) -> str:
        return str(self.found["of"])

    @property
    def task(self) -> str:
        return str(self.found["task"])

    @property
    def data(self) -> str:
        return str(self.found["data"])

    @property
    def scored(self) -> int:
        return int(self.found["scored"])

    @property
    def settings(self) -> Mapping[str, str]:
        settings: Mapping[str, str] = self.found["settings"]
        return settings

    def past(self) -> Past:
        return Past(self.run, self.of, {one["name"]: Score(**one) for one in self.found["scores"]})

    def items(self) -> pa.Table:
        """Raises: EvaluationError."""
        path = f"{self.folder}/{ITEMS}"
        try:
            return self.place.read_parquet(path)
        except (FileNotFoundError, CorpusError) as error:
            raise EvaluationError(f"{self.place.path(path)} cannot be read: {error}") from error


def save(place: Corpus, report: EvaluationReport, items: pa.Table, config: Any, tracker: Tracker) -> str:
    """Writes the files, and gives them to the tracker. Returns the path of the page."""
    packed = io.BytesIO()
    pq.write_table(items, packed, compression="zstd")
    place.write_bytes(packed.getvalue(), _RUNS, report.run, ITEMS)
    texts = {
        "config.yaml": to_yaml(redact(as_dict(config))),
        PAGE: render(report),
        # The last: a run without it was killed, and is none.
        SCORES: json.dumps(as_json(report), indent=2, ensure_ascii=False),
    }
    for name, text in texts.items():
        place.write_bytes(text.encode(), _RUNS, report.run, name)
        tracker.text(text, name)
    tracker.artifact(place.local_file(_RUNS, report.run, ITEMS))
    tracker.metrics(metrics_of(report))
    return place.path(_RUNS, report.run, PAGE)


def as_json(report: EvaluationReport) -> dict[str, Any]:
    """The numbers of a run: what scores.json holds, and `format=json` prints."""
    comparison = report.comparison
    return {
        "run": report.run,
        "task": report.task,
        "of": report.of,
        "data": report.data,
        "scored": report.scored,
        "references": report.references,
        "settings": dict(report.settings),
        "facts": dict(report.facts),
        "troubles": [asdict(one) for one in report.troubles],
        "scores": [asdict(one) for one in report.scores],
        "breakdowns": {
            one.by: {name: asdict(score) for name, score in one.groups.items()} for one in report.breakdowns
        },
        "against": None
        if comparison is None
        else {
            "run": comparison.run,
            "changes": [
                {**asdict(one), "within_noise": one.within_noise, "verdict": one.verdict}
                for one in comparison.changes
            ],
        },
        "seconds": report.seconds,
        "notes": list(report.notes),
    }


def metrics_of(report: EvaluationReport) -> dict[str, float]:
    """For the tracker: each score with its ends, each group's, and the denominators."""
    found: dict[str, float] = {"scored": report.scored, "references": report.references}
    for score in report.scores:
        found |= {score.name: score.value, f"{score.name}/low": score.low, f"{score.name}/high": score.high}
    for breakdown in report.breakdowns:
        for name, score in breakdown.groups.items():
            found[f"{breakdown.by}/{name}/{score.name}"] = score.value
    if report.comparison is not None:
        found |= {f"difference/{one.name}": one.difference for one in report.comparison.changes}
    return {_metric_key(name): value for name, value in found.items() if math.isfinite(value)}


def _metric_key(name: str) -> str:
    """MLflow takes letters, digits and few signs."""
    return "".join(sign if (sign.isalnum() and sign.isascii()) or sign in "_-./ " else "_" for sign in name)


def earlier(place: Corpus, task: str, data: str, settings: Mapping[str, str]) -> tuple[Past, ...]:
    """The runs of the same task over the same items with the same settings, the oldest first, 20 at most."""
    found: list[Past] = []
    for entry in reversed(place.entries(_RUNS)):
        if entry.type != pafs.FileType.Directory or len(found) == _PAST:
            continue
        stored = _stored(place, f"{_RUNS}/{entry.base_name}")
        if stored and (stored.task, stored.data, stored.settings) == (task, data, dict(settings)):
            found.append(stored.past())
    return tuple(reversed(found))


def find_run(place: Corpus, run: str) -> Stored:
    """A run by its name in this place, or by its folder anywhere. Raises: EvaluationError."""
    if "/" not in run and (stored := _stored(place, f"{_RUNS}/{run}")):
        return stored
    parent, _, name = run.rstrip("/").rpartition("/")
    if name and (stored := _stored(Corpus(os.path.expanduser(parent or ".")), name)):
        return stored
    names = [
        entry.base_name for entry in place.entries(_RUNS) if _stored(place, f"{_RUNS}/{entry.base_name}")
    ]
    there = f"the last are {', '.join(names[-3:])}" if names else "there are none"
    raise EvaluationError(f"against={run} is no evaluation of {place.location}, nor its folder: {there}")


def _stored(place: Corpus, folder: str) -> Stored | None:
    """None where there is no evaluation, or one that was not written to its end."""
    try:
        found = json.loads(place.read_bytes(folder, SCORES))
        stored = Stored(place, folder, found)
        _ = stored.run, stored.of, stored.task, stored.data, stored.scored, stored.settings, stored.past()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stored
