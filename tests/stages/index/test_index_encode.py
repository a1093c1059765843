import numpy as np
import pytest
import torch

from stages.index.device import DeviceEncoder, NearestCentroids
from stages.index.encode import Encoder
from stages.index.template import Template
from stages.index.train import TrainingPlan, flat_template, train_centroids, train_rotation, train_template
from stages.index.vectors import VectorError, Vectors, unit_float32
from tests.stages.index.clusters import make_clusters

CORPUS = make_clusters(11_000, 32, seed=31)
FACTORIES = ["OPQ4_16,IVF64,PQ4", "IVF64_HNSW8,PQ8", "PCA16,IVF64,SQ8", "IVF64,Flat"]


def trained(factory: str) -> Template:
    plan = TrainingPlan(factory, 32, seed=5)
    rotation = train_rotation(CORPUS.vectors, plan)
    return train_template(CORPUS.vectors, rotation, train_centroids(CORPUS.vectors, rotation, plan), plan)


@pytest.fixture(scope="module")
def templates() -> dict[str, Template]:
    return {factory: trained(factory) for factory in FACTORIES} | {"Flat": flat_template(32)}


@pytest.mark.parametrize("factory", [*FACTORIES, "Flat"])
def test_encoder_does_what_the_template_does_step_by_step(
    templates: dict[str, Template], factory: str
) -> None:
    template = templates[factory]
    rotated = template.transform(unit_float32(CORPUS.vectors, 32))
    nearest = np.ascontiguousarray(template.assign(rotated)[0][:, 0])

    lists, codes = Encoder(template)(CORPUS.vectors)

    np.testing.assert_array_equal(lists, nearest)
    np.testing.assert_array_equal(codes, template.encode(rotated, nearest))


def test_encoder_in_blocks_gives_what_one_block_gives(
    templates: dict[str, Template], monkeypatch: pytest.MonkeyPatch
) -> None:
    template = templates["OPQ4_16,IVF64,PQ4"]
    whole = Encoder(template)(CORPUS.vectors)

    monkeypatch.setattr("stages.index.template._BLOCK_BYTES", 0)
    parts = Encoder(template)(CORPUS.vectors)

    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_array_equal(parts[1], whole[1])


@pytest.mark.parametrize("factory", [*FACTORIES, "Flat"])
def test_device_encoder_agrees_with_faiss(templates: dict[str, Template], factory: str) -> None:
    template = templates[factory]

    lists, codes = DeviceEncoder(template, "cpu")(CORPUS.vectors)
    expected_lists, expected_codes = Encoder(template)(CORPUS.vectors)

    # Both sum float32 in an order of their own: of near ties, some go the other way.
    same = lists == expected_lists
    assert same.mean() > 0.999
    decoded = template.decode(codes[same], lists[same])
    expected = template.decode(expected_codes[same], lists[same])
    far = np.abs(decoded - expected).max(axis=1) > 1e-5
    assert far.mean() < 0.001 * template.width


@pytest.mark.parametrize("factory", FACTORIES)
def test_device_encoder_codes_are_as_near_as_those_of_faiss(
    templates: dict[str, Template], factory: str
) -> None:
    template = templates[factory]
    rotated = template.transform(unit_float32(CORPUS.vectors, 32))

    errors = [
        float(np.square(rotated - template.decode(codes, lists)).sum(axis=1).mean())
        for lists, codes in (
            Encoder(template)(CORPUS.vectors),
            DeviceEncoder(template, "cpu")(CORPUS.vectors),
        )
    ]

    assert errors[1] == pytest.approx(errors[0], rel=1e-4, abs=1e-12)


def test_nearest_centroids_are_those_of_all_distances() -> None:
    rng = np.random.default_rng(4)
    centroids, rows = (rng.standard_normal((n, 8)).astype(np.float32) for n in (50, 300))
    distances = np.square(rows[:, None] - centroids).sum(axis=2)

    lists, found = NearestCentroids(torch.tensor(centroids))(torch.tensor(rows))

    np.testing.assert_array_equal(lists.numpy(), distances.argmin(axis=1))
    np.testing.assert_allclose(found.numpy(), distances.min(axis=1), rtol=1e-4)


@pytest.mark.parametrize("encoder", [Encoder, lambda template: DeviceEncoder(template, "cpu")])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("nan", r"1 of .* the first is row 7000 with length nan"),
        ("inf", r"1 of .* the first is row 7000 with length inf"),
        ("length", r"1 of .* the first is row 7000 with length 2"),
        ("float64", "vectors must be float16 or float32, got float64"),
        ("narrow", r"vectors of shape \[n, 32\] are needed, got \[11000, 31\]"),
    ],
)
def test_encoder_vectors_that_must_not_enter_are_refused(
    templates: dict[str, Template],
    encoder: type[Encoder],
    damage: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stages.index.template._BLOCK_BYTES", 0)  # row 7000 is not in the first block

    with np.errstate(over="ignore"), pytest.raises(VectorError, match=message):
        encoder(templates["IVF64,Flat"])(_damaged(damage))


def _damaged(damage: str) -> Vectors:
    vectors = CORPUS.vectors.astype(np.float32)
    if damage == "float64":
        return vectors.astype(np.float64)
    if damage == "narrow":
        return vectors[:, :31]
    vectors[7000] = {"nan": np.nan, "inf": np.inf, "length": 2 * vectors[7000]}[damage]
    return vectors


@pytest.mark.parametrize("encoder", [Encoder, lambda template: DeviceEncoder(template, "cpu")])
def test_encoder_of_no_vectors_gives_none(templates: dict[str, Template], encoder: type[Encoder]) -> None:
    lists, codes = encoder(templates["OPQ4_16,IVF64,PQ4"])(CORPUS.vectors[:0])

    assert lists.shape == (0,)
    assert codes.shape == (0, 4)


@pytest.mark.parametrize("encoder", [Encoder, lambda template: DeviceEncoder(template, "cpu")])
def test_encoder_leaves_its_input_as_it_is(templates: dict[str, Template], encoder: type[Encoder]) -> None:
    vectors = CORPUS.vectors[:100].astype(np.float32) * np.float32(1.001)
    before = vectors.copy()
    vectors.flags.writeable = False

    encoder(templates["Flat"])(vectors)

    np.testing.assert_array_equal(vectors, before)
