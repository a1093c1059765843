"""The forecast: how it scales, and what files of rates and plans are taken."""

import json
from dataclasses import asdict, replace

import pytest

from pipelines.index.costs import Gpus, Work, phases, query_seconds
from pipelines.index.rates import Check, Rates, RatesError, read_rates
from pipelines.index_facts import BuildPhase

RATES = Rates(
    hardware="a machine",
    date="2026-11-21",
    dim=96,
    factory="OPQ24_96,IVF16384,PQ24",
    product_gflops=100,
    pairs=1e9,
    hnsw_vectors=5_000,
    kmeans_share=0.5,
    encode_gflops=10,
    codebook_gflops=20,
    exact_pairs=1e8,
    read_rows=1e7,
    read_values=1e8,
    unit_values=2e8,
    write_bytes=1e8,
    merge_bytes=4e8,
    query_seconds=1e-4,
    query_gflops=5,
    probe_gflops=5,
    scan_bytes=1e9,
    process_bytes=2e8,
)
WORK = Work(
    vectors=100_000_000, dim=768, factory="OPQ64_256,IVF65536,PQ64", sample=4_194_304, cores=32, machines=2
)
ADD, MERGE, TRUTH = "add: read, assign, encode", "merge", "exact truth, on the way"


def named(work: Work, rates: Rates = RATES) -> dict[str, BuildPhase]:
    return {phase.name: phase for phase in phases(work, rates)}


def test_add_on_twice_the_cores_takes_half_as_long_in_the_same_memory_each() -> None:
    one, two = named(WORK)[ADD], named(replace(WORK, cores=64))[ADD]

    assert two.seconds == pytest.approx(one.seconds / 2)
    assert two.processes == 2 * one.processes
    assert two.memory == one.memory


@pytest.mark.parametrize("phase", ["read and sample", ADD, TRUTH, MERGE])
def test_time_of_filling_is_linear_in_the_vectors(phase: str) -> None:
    one, ten = named(WORK)[phase], named(replace(WORK, vectors=10 * WORK.vectors))[phase]

    assert ten.seconds == pytest.approx(10 * one.seconds)


def test_memory_of_a_process_does_not_grow_with_the_vectors() -> None:
    small, large = named(WORK), named(replace(WORK, vectors=100 * WORK.vectors))

    assert all(large[name].memory <= phase.memory for name, phase in small.items())


@pytest.mark.parametrize(
    ("factory", "code_bytes"),
    [
        ("OPQ64_256,IVF65536,PQ64", 64),
        ("IVF65536,SQ8", 768),
        ("PCA128,IVF65536,SQfp16", 256),
        ("IVF65536,Flat", 3072),
    ],
)
def test_disk_while_merging_is_twice_the_codes_and_ids(factory: str, code_bytes: int) -> None:
    merge = named(replace(WORK, factory=factory))[MERGE]

    assert merge.disk == 2 * WORK.vectors * (code_bytes + 8)


def test_training_uses_the_cores_of_one_machine() -> None:
    alone = named(replace(WORK, cores=16, machines=1))

    for name in ("train rotation", "train centroids", "train codebook"):
        assert named(WORK)[name].seconds == pytest.approx(alone[name].seconds)


def test_training_does_not_depend_on_the_vectors() -> None:
    large = named(replace(WORK, vectors=100 * WORK.vectors))

    assert large["train centroids"] == named(WORK)["train centroids"]


def test_assignment_is_as_many_products_as_lists_and_dimensions() -> None:
    # Of rates without any other cost: 2 * width * (dim + lists) FLOP a vector.
    free = replace(RATES, pairs=1e30, encode_gflops=1e30, write_bytes=1e30)
    free = replace(free, read_rows=1e30, read_values=1e30, unit_values=1e30)

    seconds = named(WORK, free)[ADD].seconds

    assert seconds == pytest.approx(WORK.vectors * 2 * 256 * (768 + 65_536) / 100e9 / 32)


def test_wider_lists_without_a_rotation_cost_more_to_assign() -> None:
    assert named(replace(WORK, factory="IVF65536,PQ64"))[ADD].seconds > 2 * named(WORK)[ADD].seconds


def test_index_without_codebook_spends_nothing_on_encoding() -> None:
    slow = replace(RATES, encode_gflops=1e-6)
    work = replace(WORK, factory="IVF65536,SQ8")

    assert named(work, slow)[ADD].seconds == pytest.approx(named(work)[ADD].seconds)


def test_gpus_take_the_products_and_one_process_each() -> None:
    work = replace(WORK, gpus=Gpus(4, 3e14))
    slow = replace(RATES, product_gflops=1e-3, pairs=1e3, encode_gflops=1e-3)

    found = named(work, slow)

    assert found[ADD].processes == 4
    assert {name for name, phase in found.items() if phase.gpu} == {"train centroids", ADD}
    assert found[ADD].seconds == pytest.approx(named(work)[ADD].seconds)
    assert named(replace(work, gpus=Gpus(4, 6e14)))[ADD].seconds < found[ADD].seconds
    assert named(replace(work, gpus=Gpus(8, 3e14)))[ADD].seconds == pytest.approx(found[ADD].seconds / 2)


def test_hnsw_costs_less_to_assign_and_to_ask_and_more_to_train() -> None:
    lists = replace(WORK, factory="OPQ64_256,IVF262144,PQ64")
    graph = replace(WORK, factory="OPQ64_256,IVF262144_HNSW32,PQ64")

    assert named(graph)[ADD].seconds < named(lists)[ADD].seconds
    assert query_seconds(graph, RATES, 64) < query_seconds(lists, RATES, 64)
    assert named(graph)["train codebook"].seconds > named(lists)["train codebook"].seconds


def test_flat_index_has_nothing_to_train() -> None:
    names = named(Work(9_000, 96, "Flat", sample=0, cores=2))

    assert list(names) == [ADD, TRUTH, MERGE]


def test_search_over_more_lists_or_longer_ones_takes_longer() -> None:
    once = query_seconds(WORK, RATES, 16)

    assert query_seconds(WORK, RATES, 64) > once
    assert query_seconds(replace(WORK, vectors=10 * WORK.vectors), RATES, 16) > once
    coarse = 1e-4 + 2 * 65_536 * 256 / 5e9
    assert once == pytest.approx(coarse + 16 * (2 * 256 * 256 / 5e9 + 1e8 / 65_536 * 64 / 1e9))


def test_rates_from_their_file_are_the_same() -> None:
    wanted = replace(RATES, checks=(Check(10_000_000, "add", 110.0, 100.0),))

    found = read_rates(json.dumps(asdict(wanted)).encode(), "rates.json")

    assert found == wanted
    assert found.checks[0].error == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "named_in"),
    [
        ({"pairs": None}, "pairs"),
        ({"pairs": 0}, "pairs"),
        ({"merge_bytes": "fast"}, "merge_bytes"),
        ({"merge_bytes": True}, "merge_bytes"),
        ({"read_values": float("inf")}, "read_values"),
        ({"checks": [{"vectors": 1}]}, "f.json"),
        ({"checks": 1}, "f.json"),
    ],
)
def test_rates_that_are_wrong_are_refused_by_name(change: dict[str, object], named_in: str) -> None:
    with pytest.raises(RatesError, match=named_in):
        read_rates(json.dumps(asdict(RATES) | change).encode(), "f.json")


def test_rates_that_are_missing_are_refused_by_name() -> None:
    stored = asdict(RATES)
    del stored["scan_bytes"]

    with pytest.raises(RatesError, match=r"f\.json.*scan_bytes"):
        read_rates(json.dumps(stored).encode(), "f.json")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\x00", b"null"])
def test_rates_of_another_file_are_refused(data: bytes) -> None:
    with pytest.raises(RatesError, match=r"f\.json"):
        read_rates(data, "f.json")
