from dataclasses import asdict
from hashlib import sha256

import numpy as np
import pytest

from stages.index.blas import import_faiss
from stages.index.damage import IndexDamaged
from stages.index.template import Template, load_template, pack_template
from stages.index.train import TrainingPlan, flat_template, train_centroids, train_rotation, train_template
from stages.index.vectors import Float32, VectorError
from tests.stages.index.clusters import make_clusters, unit

CORPUS = make_clusters(11_000, 32, seed=21)
UNIT = unit(CORPUS.vectors)
FACTORIES = ["OPQ4_16,IVF64,PQ4", "IVF64_HNSW8,PQ8", "PCA16,IVF64,SQ8", "IVF64,SQfp16", "IVF64,Flat"]


def trained(factory: str, seed: int = 5) -> Template:
    plan = TrainingPlan(factory, 32, seed)
    rotation = train_rotation(CORPUS.vectors, plan)
    return train_template(CORPUS.vectors, rotation, train_centroids(CORPUS.vectors, rotation, plan), plan)


@pytest.fixture(scope="module")
def templates() -> dict[str, Template]:
    return {factory: trained(factory) for factory in FACTORIES} | {"Flat": flat_template(32)}


def encoded(template: Template, vectors: Float32) -> tuple[list[int], list[bytes]]:
    rotated = template.transform(vectors)
    lists = np.ascontiguousarray(template.assign(rotated)[0][:, 0])
    return lists.tolist(), [code.tobytes() for code in template.encode(rotated, lists)]


def added(template: Template, vectors: Float32) -> tuple[list[int], list[bytes]]:
    """Lists and codes in the order of the vectors, as faiss's own add stores them."""
    faiss = import_faiss()
    index = faiss.clone_index(template.index)
    index.add_with_ids(vectors, np.arange(len(vectors)))
    held = faiss.extract_index_ivf(index).invlists
    rows: dict[int, tuple[int, bytes]] = {}
    for number in range(held.nlist):
        if held.list_size(number):
            ids = faiss.rev_swig_ptr(held.get_ids(number), held.list_size(number))
            flat = faiss.rev_swig_ptr(held.get_codes(number), held.list_size(number) * held.code_size)
            codes = flat.reshape(len(ids), -1)
            rows |= {int(i): (number, code.tobytes()) for i, code in zip(ids, codes, strict=True)}
    return [rows[i][0] for i in range(len(vectors))], [rows[i][1] for i in range(len(vectors))]


@pytest.mark.parametrize("factory", [*FACTORIES, "Flat"])
def test_template_lists_and_codes_are_those_of_a_faiss_add(
    templates: dict[str, Template], factory: str
) -> None:
    assert encoded(templates[factory], UNIT[:3000]) == added(templates[factory], UNIT[:3000])


def test_flat_template_codes_are_the_vectors(templates: dict[str, Template]) -> None:
    lists, codes = encoded(templates["Flat"], UNIT[:100])

    assert lists == [0] * 100
    assert codes == [row.tobytes() for row in UNIT[:100]]


def test_template_names_its_sizes(templates: dict[str, Template]) -> None:
    sizes = {factory: (one.dim, one.width, one.nlist, one.code_size) for factory, one in templates.items()}

    assert sizes == {
        "OPQ4_16,IVF64,PQ4": (32, 16, 64, 4),
        "IVF64_HNSW8,PQ8": (32, 32, 64, 8),
        "PCA16,IVF64,SQ8": (32, 16, 64, 16),
        "IVF64,SQfp16": (32, 32, 64, 64),
        "IVF64,Flat": (32, 32, 64, 128),
        "Flat": (32, 32, 1, 128),
    }


def test_assign_several_lists_are_the_nearest_in_order(templates: dict[str, Template]) -> None:
    template = templates["IVF64,Flat"]
    centroids = template.coarse.reconstruct_n(0, 64)
    distances = np.square(UNIT[:200, None] - centroids).sum(axis=2)

    lists, found = template.assign(UNIT[:200], nprobe=5)

    np.testing.assert_array_equal(lists, np.argsort(distances, axis=1)[:, :5])
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :5], atol=1e-5)


def test_assign_more_lists_than_there_are_gives_them_all(templates: dict[str, Template]) -> None:
    lists, _ = templates["IVF64,Flat"].assign(UNIT[:1], nprobe=1000)

    assert sorted(lists[0].tolist()) == list(range(64))


def test_fit_of_exact_codes_has_no_code_error(templates: dict[str, Template]) -> None:
    fit = templates["Flat"].fit(UNIT)

    # One list around zero, and unit vectors.
    assert asdict(fit) == {
        "coarse_error": pytest.approx(1, abs=1e-5),
        "code_error": 0,
        "imbalance": 1,
        "rows": 11_000,
    }


def test_fit_is_the_distance_to_centroids_and_to_decoded_codes(templates: dict[str, Template]) -> None:
    template = templates["PCA16,IVF64,SQ8"]
    rotated = template.transform(UNIT)
    lists = template.assign(rotated)[0][:, 0]
    centroids = template.coarse.reconstruct_n(0, 64)[lists]
    index = import_faiss().clone_index(template.ivf)
    index.add(rotated)
    index.make_direct_map()

    fit = template.fit(UNIT)

    assert fit.coarse_error == pytest.approx(np.square(rotated - centroids).sum(1).mean(), rel=1e-4)
    assert fit.code_error == pytest.approx(
        np.square(rotated - index.reconstruct_n(0, len(UNIT))).sum(1).mean(), rel=1e-4
    )
    assert 0 < fit.code_error < fit.coarse_error


def test_fit_of_other_vectors_is_worse(templates: dict[str, Template]) -> None:
    strange = unit(np.random.default_rng(1).standard_normal((5000, 32)).astype(np.float32))

    for template in (templates["OPQ4_16,IVF64,PQ4"], templates["IVF64_HNSW8,PQ8"]):
        assert template.fit(strange).coarse_error > 1.2 * template.fit(UNIT).coarse_error
        assert template.fit(strange).code_error > 1.2 * template.fit(UNIT).code_error


def test_fit_imbalance_of_a_small_sample_estimates_that_of_all(templates: dict[str, Template]) -> None:
    template = templates["IVF64,Flat"]
    order = np.random.default_rng(2).permutation(len(UNIT))

    whole = template.fit(UNIT).imbalance
    parts = [template.fit(UNIT[order[start : start + 110]]).imbalance for start in range(0, 11_000, 110)]

    # Uncorrected, samples of 110 rows in 64 lists would be 0.58 higher. A part's deviation is about 0.1.
    assert np.mean(parts) == pytest.approx(whole, abs=0.05)


def test_fit_of_vectors_in_one_list_is_as_uneven_as_can_be(templates: dict[str, Template]) -> None:
    assert templates["IVF64,Flat"].fit(np.repeat(UNIT[:1], 50, axis=0)).imbalance == pytest.approx(64)


def test_fit_of_no_vectors_is_refused(templates: dict[str, Template]) -> None:
    with pytest.raises(VectorError, match="a fit needs at least 1 vector"):
        templates["Flat"].fit(UNIT[:0])


@pytest.mark.parametrize("factory", [*FACTORIES, "Flat"])
def test_template_packed_and_loaded_encodes_alike(templates: dict[str, Template], factory: str) -> None:
    data, template_id = pack_template(templates[factory])

    loaded = load_template(data, factory, template_id, "t.faiss")

    assert encoded(loaded, UNIT[:500]) == encoded(templates[factory], UNIT[:500])
    assert pack_template(loaded) == (data, template_id)


def test_load_template_computes_no_tables(templates: dict[str, Template]) -> None:
    data, template_id = pack_template(templates["IVF64_HNSW8,PQ8"])

    loaded = load_template(data, "IVF64_HNSW8,PQ8", template_id, "t.faiss")

    # faiss computes up to 2 GiB of them whenever it reads an index.
    assert loaded.ivf.precomputed_table.size() == 0


def test_load_template_with_any_byte_changed_is_refused(templates: dict[str, Template]) -> None:
    data, template_id = pack_template(templates["Flat"])

    for at in range(0, len(data), 7):
        broken = bytearray(data)
        broken[at] ^= 1
        with pytest.raises(IndexDamaged, match=r"^a/t\.faiss is damaged: "):
            load_template(bytes(broken), "Flat", template_id, "a/t.faiss")


def _loaded(index: object, factory: str) -> Template:
    faiss = import_faiss()
    data = faiss.serialize_index(index).tobytes()
    return load_template(data, factory, sha256(data).hexdigest()[:16], "a/t.faiss")


def test_load_template_that_is_not_trained_is_refused() -> None:
    index = import_faiss().index_factory(32, "IVF64,PQ4")

    with pytest.raises(IndexDamaged, match=r"a/t\.faiss .*is not trained"):
        _loaded(index, "IVF64,PQ4")


def test_load_template_that_holds_vectors_is_refused(templates: dict[str, Template]) -> None:
    index = import_faiss().clone_index(templates["IVF64,Flat"].index)
    index.add(UNIT[:3])

    with pytest.raises(IndexDamaged, match=r"a/t\.faiss .*holds 3 vectors"):
        _loaded(index, "IVF64,Flat")


def test_load_template_of_inner_products_is_refused() -> None:
    faiss = import_faiss()
    index = faiss.index_factory(32, "IVF64,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(UNIT)

    with pytest.raises(IndexDamaged, match=r"a/t\.faiss .*does not measure L2"):
        _loaded(index, "IVF64,Flat")


def test_load_template_with_a_quantizer_of_another_metric_is_refused() -> None:
    faiss = import_faiss()
    coarse = faiss.IndexFlatIP(32)
    index = faiss.IndexIVFFlat(coarse, 32, 64, faiss.METRIC_L2)
    index.train(UNIT)

    with pytest.raises(IndexDamaged, match=r"a/t\.faiss .*does not measure L2"):
        _loaded(index, "IVF64,Flat")


def test_load_template_without_lists_is_refused() -> None:
    with pytest.raises(IndexDamaged, match=r"a/t\.faiss is no template"):
        _loaded(import_faiss().index_factory(32, "Flat"), "Flat")


def test_load_template_of_another_factory_is_refused(templates: dict[str, Template]) -> None:
    with pytest.raises(IndexDamaged, match=r"a/t\.faiss has 64 lists, which is not IVF128,Flat"):
        _loaded(templates["IVF64,Flat"].index, "IVF128,Flat")


def test_template_rows_of_another_width_or_type_are_refused(templates: dict[str, Template]) -> None:
    template = templates["OPQ4_16,IVF64,PQ4"]
    lists = np.zeros(10, np.int64)

    with pytest.raises(VectorError, match=r"float32 \[n, 32\] is needed, got float64 \[10, 32\]"):
        template.transform(UNIT[:10].astype(np.float64))
    with pytest.raises(VectorError, match=r"float32 \[n, 16\] is needed, got float32 \[10, 32\]"):
        template.assign(UNIT[:10])
    with pytest.raises(VectorError, match=r"float32 \[n, 16\] is needed, got float32 \[10, 32\]"):
        template.encode(UNIT[:10], lists)


@pytest.mark.parametrize("lists", [np.full(10, 64), np.full(10, -1), np.zeros(9, np.int64), np.zeros(10)])
def test_encode_lists_that_are_not_there_are_refused(
    templates: dict[str, Template], lists: np.ndarray
) -> None:
    with pytest.raises(VectorError, match="list"):
        templates["IVF64,Flat"].encode(UNIT[:10], lists)


def test_assign_no_list_is_refused(templates: dict[str, Template]) -> None:
    with pytest.raises(VectorError, match="at least 1 list must be asked for, got 0"):
        templates["Flat"].assign(UNIT[:1], nprobe=0)
