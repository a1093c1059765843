import hashlib
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from stages.index import lists as lists_module
from stages.index.damage import IndexDamaged
from stages.index.lists import Lists, write_lists
from stages.index.merge import merge_lists
from stages.index.template import Template
from stages.index.vectors import VectorError
from tests.stages.index.clusters import make_clusters
from tests.stages.index.parts import (
    lists_in_memory,
    make_part,
    make_parts,
    make_template,
    merge_to,
    write_part,
)

CORPUS = make_clusters(1500, 16, seed=41)
TEMPLATE = make_template(CORPUS, "IVF16,PQ4")
FLAT = make_template(CORPUS, "IVF1,Flat")
ODD = make_template(CORPUS, "PCA5,IVF16,SQ8")
TEMPLATES = pytest.mark.parametrize("template", [TEMPLATE, FLAT, ODD], ids=lambda template: template.factory)


@pytest.fixture(params=[lists_module.RUN_BYTES, 400], ids=["in one run", "in many"])
def _run_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists_module, "RUN_BYTES", request.param)


@pytest.mark.usefixtures("_run_bytes")
@TEMPLATES
@pytest.mark.parametrize("cuts", [[], [700], [0, 1, 2, 513, 1499, 1500]], ids=str)
def test_merge_equals_what_one_call_of_faiss_fills(
    tmp_path: Path, template: Template, cuts: list[int]
) -> None:
    merged = merge_to(tmp_path / "merged", make_parts(tmp_path, template, CORPUS, cuts))

    data = (tmp_path / "merged").read_bytes()
    assert data == lists_in_memory(template, CORPUS.ids, CORPUS.vectors)
    assert (merged.rows, merged.dropped, merged.size) == (len(CORPUS.ids), 0, len(data))
    assert merged.sha256 == hashlib.sha256(data).hexdigest()
    Lists(tmp_path / "merged", merged.directory, template.code_size).check(np.arange(template.nlist))


@pytest.mark.usefixtures("_run_bytes")
@TEMPLATES
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999, 1])
def test_merge_without_gone_ids_equals_what_was_never_added(
    tmp_path: Path, template: Template, share: float
) -> None:
    rng = np.random.default_rng(42)
    kept = rng.permutation(len(CORPUS.ids)) >= share * len(CORPUS.ids)
    elsewhere = np.array([1 << 60, 3 << 20 | 600])
    gone = rng.permutation(np.concatenate([CORPUS.ids[~kept], elsewhere]))

    merged = merge_to(tmp_path / "merged", make_parts(tmp_path, template, CORPUS, [300, 900]), gone)

    data = (tmp_path / "merged").read_bytes()
    assert data == lists_in_memory(template, CORPUS.ids[kept], CORPUS.vectors[kept])
    assert (merged.rows, merged.dropped) == (kept.sum(), (~kept).sum())


def test_merge_of_merges_equals_one_merge(tmp_path: Path) -> None:
    one, two, three = make_parts(tmp_path, TEMPLATE, CORPUS, [300, 900])
    first = merge_to(tmp_path / "first", [one, two])

    merge_to(tmp_path / "steps", [Lists(tmp_path / "first", first.directory, TEMPLATE.code_size), three])
    merge_to(tmp_path / "at once", [one, two, three])

    assert (tmp_path / "steps").read_bytes() == (tmp_path / "at once").read_bytes()


@pytest.mark.parametrize("other", ["IVF8,PQ4", "IVF16,PQ8"])
def test_merge_of_lists_of_another_shape_is_refused(tmp_path: Path, other: str) -> None:
    sources = [
        make_part(tmp_path / "base.bin", TEMPLATE, CORPUS.ids, CORPUS.vectors),
        make_part(tmp_path / "stranger.bin", make_template(CORPUS, other), CORPUS.ids, CORPUS.vectors),
    ]
    stream = io.BytesIO()

    with pytest.raises(IndexDamaged, match=r"stranger\.bin.*another template"):
        merge_lists(sources, stream, np.empty(0, np.int64))
    assert stream.getvalue() == b""


def test_merge_of_nothing_is_refused() -> None:
    with pytest.raises(VectorError, match="no lists"):
        merge_lists([], io.BytesIO(), np.empty(0, np.int64))


@pytest.mark.usefixtures("_run_bytes")
@TEMPLATES
def test_merge_never_takes_over_damage(tmp_path: Path, template: Template) -> None:
    path = tmp_path / "bad.bin"
    written = write_part(path, template, CORPUS.ids, CORPUS.vectors)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(IndexDamaged, match=r"bad\.bin"):
        merge_to(tmp_path / "merged", [Lists(path, written.directory, template.code_size)])


def _peak_of_merge(folder: Path, rows: int, nlist: int) -> int:
    rng = np.random.default_rng(43)
    sources = []
    for number in range(3):
        path, ids = folder / f"{rows}-{number}", np.arange(number * rows, (number + 1) * rows)
        codes = rng.integers(0, 256, (rows, 24), np.uint8)
        with path.open("wb") as stream:
            written = write_lists(stream, rng.integers(0, nlist, rows), ids, codes, nlist)
        sources.append(Lists(path, written.directory, 24))
    gone = np.arange(0, 3 * rows, 7919)
    tracemalloc.start()
    merge_to(folder / "merged", sources, gone)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("nlist", [1, 64], ids=["one list", "many lists"])
def test_merge_memory_does_not_grow_with_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nlist: int
) -> None:
    monkeypatch.setattr(lists_module, "RUN_BYTES", 1 << 18)

    small, large = (_peak_of_merge(tmp_path, rows, nlist) for rows in (20_000, 160_000))

    # 15 MB in three files, against pieces of 256 KiB.
    assert large < 1.5 * small
    assert large < 10 << 18
