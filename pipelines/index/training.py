"""A template of an index, trained in stages of which each is kept: a training that was killed goes on."""

from collections.abc import Mapping
from typing import Any

from pipelines.corpus import Corpus, fingerprint
from pipelines.index.kept import kept
from pipelines.index.layout import WORK, shards_in
from pipelines.index.reading import dataset_of, dim_of
from pipelines.index.survey import Survey, Surveyor, survey
from pipelines.index.templates import save_template
from pipelines.index.workers import Crew
from stages.index.arrays import pack_arrays, unpack_arrays
from stages.index.choice import choose_factory, training_size
from stages.index.config import IndexConfig
from stages.index.template import Template
from stages.index.train import TrainingPlan, flat_template, train_centroids, train_rotation, train_template
from stages.index.vectors import Ids, Vectors, unit_float32
from stages.schemas import SHARD_ROWS

# A survey that a killed build left is good while it covers so much of what there is.
_COVERED = 0.8


def kept_survey(
    corpus: Corpus, name: str, asked: Mapping[str, Any], gone: Ids, config: IndexConfig, crew: Crew
) -> Survey:
    """The survey that a killed build left, where it still covers the corpus; else a new one."""
    present = set(corpus.shards(dataset_of(name)))
    most, dim = len(present) * SHARD_ROWS, dim_of(corpus, name)
    points = training_size(choose_factory(most, dim, config).factory, most, dim, config)
    work = _kept_at(name, asked)
    surveyor = Surveyor(corpus, name, dim, work, gone, points, config.recall_queries, config.seed)
    found = survey(surveyor, crew)
    covered = set(shards_in(found.shards))
    if covered <= present and len(covered) >= _COVERED * len(present):
        return found
    corpus.delete_tree(*work)
    return survey(surveyor, crew)


def _kept_at(name: str, asked: Mapping[str, Any], *file: str) -> tuple[str, ...]:
    return ("index", name, WORK, f"training-{fingerprint(asked)}", *file)


def train(
    corpus: Corpus, name: str, asked: Mapping[str, Any], seen: Survey, config: IndexConfig, device: str
) -> str:
    """The ID of a template for the vectors that the survey saw, trained on its sample.

    Rotation and centroids are kept on the way. Raises: IndexConfigError, VectorError.
    """
    dim = dim_of(corpus, name)
    choice = choose_factory(seen.rows, dim, config)
    points = training_size(choice.factory, seen.rows, dim, config)
    if points:
        plan = TrainingPlan(choice.factory, dim, config.seed, device)
        template = _in_stages(corpus, name, asked, seen.sample[:points], plan)
    else:
        template = flat_template(dim)
    held_out = unit_float32(seen.queries[1], dim)
    return save_template(corpus, name, template, choice, asked, (points, template.fit(held_out)))


def _in_stages(
    corpus: Corpus, name: str, asked: Mapping[str, Any], sample: Vectors, plan: TrainingPlan
) -> Template:
    rotation = (
        kept(corpus, _kept_at(name, asked, "rotation"), lambda: train_rotation(sample, plan) or b"") or None
    )
    place = _kept_at(name, asked, "centroids")
    stored = kept(corpus, place, lambda: pack_arrays(centroids=train_centroids(sample, rotation, plan)))
    centroids = unpack_arrays(stored, corpus.path(*place))["centroids"]
    return train_template(sample, rotation, centroids, plan)
