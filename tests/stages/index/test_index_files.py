import hashlib
from dataclasses import replace

import numpy as np
import pytest

from stages.index.build import add, nprobe_of, set_nprobe, train
from stages.index.files import IndexDamaged, IndexMeta, pack_index, unpack_index
from stages.index.recall import Recall
from stages.index.search import search
from tests.stages.index.clusters import make_clusters

CORPUS = make_clusters(10_000, 16, seed=41)
META = IndexMeta(
    factory="IVF64,SQ8",
    reason="as configured",
    dim=16,
    vectors=10_000,
    trained_on=10_000,
    rerank=20,
    recall=Recall(recall=0.97, nprobe=8, candidates=200, queries=500, target_met=True),
    seed=0,
    source={"dataset": "embeddings/pocket"},
)


@pytest.fixture(scope="module")
def packed() -> tuple[bytes, str]:
    index = train(CORPUS.vectors, "OPQ4_16,IVF64,PQ4", seed=0)
    add(index, CORPUS.ids, CORPUS.vectors)
    set_nprobe(index, 5)
    data, sha256 = pack_index(index)
    return bytes(data), sha256


def test_unpack_index_answers_as_before_and_keeps_nprobe(packed: tuple[bytes, str]) -> None:
    first, second = (unpack_index(*packed, "index.faiss") for _ in range(2))

    assert nprobe_of(first) == 5
    assert first.ntotal == 10_000
    found = search(first, CORPUS.vectors[:50], 10, candidates=100, fetch=CORPUS.fetch)
    np.testing.assert_array_equal(found.ids[:, 0], CORPUS.ids[:50])
    assert pack_index(second)[1] == packed[1]


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_unpack_index_truncated_file_is_refused(packed: tuple[bytes, str], cut: int) -> None:
    data, sha256 = packed

    with pytest.raises(IndexDamaged, match=r"index\.faiss is damaged"):
        unpack_index(data[:cut], sha256, "index.faiss")


@pytest.mark.parametrize("position", [10, 5000, -1])
def test_unpack_index_flipped_bit_is_refused(packed: tuple[bytes, str], position: int) -> None:
    data = bytearray(packed[0])
    data[position] ^= 1

    with pytest.raises(IndexDamaged, match=r"index\.faiss is damaged"):
        unpack_index(bytes(data), packed[1], "index.faiss")


def test_unpack_index_bytes_of_something_else_are_refused_in_one_line() -> None:
    data = b"not an index, but with the right digest"
    sha256 = hashlib.sha256(data).hexdigest()

    with pytest.raises(IndexDamaged, match=r"^index.faiss cannot be read by faiss [^\n]*$"):
        unpack_index(data, sha256, "index.faiss")


@pytest.mark.parametrize("meta", [META, replace(META, recall=None)])
def test_meta_written_and_read_is_the_same(meta: IndexMeta) -> None:
    assert IndexMeta.from_json(meta.to_json()) == meta


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"recall": null, "colour": 1}'])
def test_meta_damaged_is_refused_with_its_name(text: bytes) -> None:
    with pytest.raises(IndexDamaged, match=r"gen-000001/meta.json is not the record of an index"):
        IndexMeta.from_json(text, "gen-000001/meta.json")
