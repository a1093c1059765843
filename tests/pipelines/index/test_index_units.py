"""Units that a killed build left: taken up where they are what is asked for, and only there."""

from pathlib import Path

import numpy as np

from pipelines.index.stock import take_stock
from pipelines.index.truth import of_unit
from pipelines.index.units import Filling, fill_units
from stages.index.exact import Kind, queries_of
from stages.index.vectors import Float32
from tests.pipelines.index.vector_corpus import DIM, NAME, SMALL, built, make_corpus
from tests.pipelines.indexes import LOCAL
from tests.stages.index.clusters import brute_force, unit

ROWS = 12_288


def _texts(seed: int) -> Float32:
    return unit(np.random.default_rng(seed).standard_normal((5, DIM)).astype(np.float32))


def test_units_for_other_texts_are_measured_with_those(tmp_path: Path) -> None:
    corpus, vectors = make_corpus(tmp_path, ROWS)
    template = built(corpus).meta.template
    embeddings, shards = take_stock(corpus, NAME, SMALL).embeddings, list(range(8))
    among = slice(0, 8 * 512)
    for seed in (1, 2):
        asked = queries_of(Kind.TEXT, np.full(5, -1, np.int64), _texts(seed))
        filling = Filling(corpus, NAME, template, embeddings, np.empty(0, np.int64), asked)
        (done,) = fill_units(filling, shards, SMALL.unit_rows, LOCAL)
        part = type(vectors)(vectors.ids[among], vectors.vectors[among])
        exact, _ = brute_force(part, _texts(seed), 10)
        assert np.array_equal(of_unit(corpus, NAME, done.unit).ids[:, :10], exact)
