"""Trained templates of an index: stored once, shared by its generations."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipelines.corpus import Corpus
from pipelines.index.layout import (
    TEMPLATE,
    TEMPLATE_DATA,
    TEMPLATES,
    FileRecord,
    TemplateRecord,
    read_template,
    to_json,
)
from stages.index.choice import Choice
from stages.index.config import IndexConfig
from stages.index.damage import IndexDamaged
from stages.index.template import Fit, Template, load_template, pack_template

# What of a configuration changes the template. The rest decides how an index is filled and searched.
_IDENTITY = ("factory", "bytes_per_vector", "train_points_per_list", "seed")


def asked_of(embeddings: str, config: IndexConfig) -> dict[str, Any]:
    """What identifies a training over embeddings of this fingerprint."""
    return {"embeddings": embeddings, **{key: getattr(config, key) for key in _IDENTITY}}


def save_template(
    corpus: Corpus,
    name: str,
    template: Template,
    choice: Choice,
    asked: Mapping[str, Any],
    fitted: tuple[int, Fit | None],
) -> str:
    """Writes `templates/ID`, the record last; returns the ID. `fitted`: rows trained on, and a fit."""
    data, made = pack_template(template)
    rows, fit = fitted
    record = TemplateRecord(
        factory=choice.factory,
        reason=choice.reason,
        dim=template.dim,
        trained_on=rows,
        asked=dict(asked),
        file=FileRecord(hashlib.sha256(data).hexdigest(), len(data)),
        fit=None if fit is None else asdict(fit),
    )
    corpus.check_fence()
    corpus.write_bytes(data, "index", name, TEMPLATES, made, TEMPLATE_DATA)
    corpus.write_bytes(to_json(record), "index", name, TEMPLATES, made, TEMPLATE)
    return made


def open_template(corpus: Corpus, name: str, template: str) -> Template:
    """Raises: IndexDamaged; FileNotFoundError."""
    record = read_template(corpus, name, template)
    path = ("index", name, TEMPLATES, template, TEMPLATE_DATA)
    return load_template(corpus.read_bytes(*path), record.factory, template, corpus.path(*path))


def check_template(corpus: Corpus, name: str, template: str) -> TemplateRecord:
    """Its record, where its file has the right size. Raises: IndexDamaged; FileNotFoundError."""
    record = read_template(corpus, name, template)
    path = corpus.path("index", name, TEMPLATES, template, TEMPLATE_DATA)
    if corpus.filesystem.get_file_info(path).size != record.file.size:
        raise IndexDamaged(f"{path} is not whole")
    return record


def find_template(corpus: Corpus, name: str, asked: Mapping[str, Any], factory: str) -> str | None:
    """A sound template of this training, which a build that was killed may have left."""
    for entry in corpus.entries("index", name, TEMPLATES):
        try:
            record = read_template(corpus, name, entry.base_name)
            if record.asked == asked and record.factory == factory:
                open_template(corpus, name, entry.base_name)
                return str(entry.base_name)
        except (IndexDamaged, FileNotFoundError):
            continue
    return None
