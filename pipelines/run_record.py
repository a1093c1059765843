"""The record that a run leaves under `runs/RUN/`: configuration without secrets, numbers, page."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pipelines.config import as_dict, to_yaml
from pipelines.corpus import Corpus
from pipelines.facts import IndexReport, Report
from pipelines.redact import redact
from pipelines.report import render
from pipelines.tracking import Tracker


def run_name(started: datetime) -> str:
    """Sorts by time; no dataset is ever named by a clock, only this record is."""
    return f"{started:%Y%m%dT%H%M%S}{started.microsecond // 1000:03d}Z"


def save_record(
    corpus: Corpus, config: Any, report: Report | IndexReport, metrics: Mapping[str, float], tracker: Tracker
) -> None:
    """Writes the files, and gives them to the tracker."""
    files = {
        "config.yaml": to_yaml(redact(as_dict(config))),
        "metrics.json": json.dumps(metrics, indent=2),
        "report.html": render(report),
    }
    for name, text in files.items():
        corpus.write_bytes(text.encode(), "runs", report.run, name)
        tracker.text(text, name)
