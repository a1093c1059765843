import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stages.index import lists as lists_module
from stages.index.blas import import_faiss
from stages.index.damage import IndexDamaged
from stages.index.lists import Directory, Lists, write_lists
from stages.index.template import Template
from stages.index.vectors import VectorError
from tests.stages.index.clusters import make_clusters
from tests.stages.index.parts import lists_in_memory, make_part, make_template, write_part

CORPUS = make_clusters(1500, 16, seed=31)
TEMPLATE = make_template(CORPUS, "IVF16,PQ4")
FLAT = make_template(CORPUS, "IVF1,Flat")
# Of 5 bytes a code, ids lie at odd addresses.
ODD = make_template(CORPUS, "PCA5,IVF16,SQ8")


@pytest.fixture(params=[lists_module.RUN_BYTES, 400], ids=["in one run", "in many"])
def _run_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists_module, "RUN_BYTES", request.param)


@dataclass(frozen=True, eq=False)
class Removing(Directory):
    """`rows` is asked for between the opening of the file and its mapping."""

    path: Path

    @property
    def rows(self) -> int:
        self.path.unlink(missing_ok=True)
        return super().rows


def test_lists_of_a_file_that_is_removed_while_it_is_opened_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lists.bin"
    written = write_part(path, TEMPLATE, CORPUS.ids, CORPUS.vectors)

    part = Lists(path, Removing(written.directory.sizes, written.directory.checks, path), TEMPLATE.code_size)

    assert not path.exists()
    assert sorted(np.concatenate(list(part.ids()))) == CORPUS.ids.tolist()


@pytest.mark.usefixtures("_run_bytes")
@pytest.mark.parametrize("template", [TEMPLATE, FLAT, ODD], ids=lambda template: template.factory)
def test_write_lists_equals_the_lists_that_faiss_fills(tmp_path: Path, template: Template) -> None:
    # Ids that do not ascend: what comes first stays first.
    written = write_part(tmp_path / "lists.bin", template, CORPUS.ids[::-1].copy(), CORPUS.vectors)

    data = (tmp_path / "lists.bin").read_bytes()
    assert data == lists_in_memory(template, CORPUS.ids[::-1].copy(), CORPUS.vectors)
    assert (written.rows, written.size) == (len(CORPUS.ids), len(data))
    assert written.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("number", [-1, 16])
def test_write_lists_to_a_list_that_is_not_there_is_refused(number: int) -> None:
    numbers = np.array([0, number])

    with pytest.raises(VectorError, match="0 to 15"):
        write_lists(io.BytesIO(), numbers, numbers, np.zeros((2, 4), np.uint8), 16)


def test_write_lists_of_arrays_of_several_lengths_is_refused() -> None:
    with pytest.raises(VectorError, match="differ"):
        write_lists(io.BytesIO(), np.zeros(2, np.int64), np.arange(2), np.zeros((3, 4), np.uint8), 16)


@pytest.mark.usefixtures("_run_bytes")
@pytest.mark.parametrize("template", [TEMPLATE, FLAT, ODD], ids=lambda template: template.factory)
def test_ids_of_lists_are_all_that_were_written(tmp_path: Path, template: Template) -> None:
    part = make_part(tmp_path / "lists.bin", template, CORPUS.ids, CORPUS.vectors)

    assert sorted(np.concatenate(list(part.ids()))) == CORPUS.ids.tolist()


@pytest.mark.parametrize("change", [-1, 1])
def test_lists_of_a_file_that_is_cut_or_grown_are_refused(tmp_path: Path, change: int) -> None:
    path = tmp_path / "lists.bin"
    written = write_part(path, TEMPLATE, CORPUS.ids, CORPUS.vectors)
    os.truncate(path, written.size + change)

    with pytest.raises(IndexDamaged, match=rf"lists\.bin.*{written.size + change} bytes"):
        Lists(path, written.directory, TEMPLATE.code_size)


def test_lists_with_the_directory_of_others_are_refused(tmp_path: Path) -> None:
    written = write_part(tmp_path / "lists.bin", TEMPLATE, CORPUS.ids, CORPUS.vectors)
    other = write_part(tmp_path / "other.bin", TEMPLATE, CORPUS.ids[1:], CORPUS.vectors[1:])

    with pytest.raises(IndexDamaged, match=r"lists\.bin"):
        Lists(tmp_path / "lists.bin", other.directory, TEMPLATE.code_size)
    assert Lists(tmp_path / "lists.bin", written.directory, TEMPLATE.code_size).directory.rows == 1500


@pytest.mark.usefixtures("_run_bytes")
def test_every_flipped_byte_is_found_and_its_list_named(tmp_path: Path) -> None:
    few = slice(0, 40)
    path = tmp_path / "lists.bin"
    written = write_part(path, TEMPLATE, CORPUS.ids[few], CORPUS.vectors[few])
    data = path.read_bytes()
    owner = np.repeat(np.arange(16), written.directory.sizes * (TEMPLATE.code_size + 8))

    for position, number in enumerate(owner):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        part = Lists(path, written.directory, TEMPLATE.code_size)
        part.check(np.setdiff1d(np.arange(16), number))
        with pytest.raises(IndexDamaged, match=rf"lists\.bin.* list {number} "):
            part.check(np.array([number]))
        with pytest.raises(IndexDamaged, match=f" list {number} "):
            list(part.ids())


def test_lists_cannot_be_added_to_or_removed_from(tmp_path: Path) -> None:
    path = tmp_path / "lists.bin"
    part = make_part(path, TEMPLATE, CORPUS.ids, CORPUS.vectors)
    before = path.read_bytes()
    code, number = np.zeros(TEMPLATE.code_size, np.uint8), int(part.directory.sizes.argmax())
    faiss = import_faiss()

    with pytest.raises(RuntimeError):
        part.invlists.add_entry(number, 7, faiss.swig_ptr(code))
    with pytest.raises(RuntimeError):
        part.invlists.resize(number, 0)

    assert path.read_bytes() == before
    assert part.invlists.list_size(number) == part.directory.sizes[number]


def test_lists_of_no_vectors_can_be_opened(tmp_path: Path) -> None:
    part = make_part(tmp_path / "lists.bin", TEMPLATE, CORPUS.ids[:0], CORPUS.vectors[:0])

    part.check(np.arange(16))
    assert (part.directory.rows, sum(map(len, part.ids())), part.invlists.nlist) == (0, 0, 16)


def test_directory_comes_back_as_it_was(tmp_path: Path) -> None:
    directory = write_part(tmp_path / "lists.bin", TEMPLATE, CORPUS.ids, CORPUS.vectors).directory

    back = Directory.unpack(directory.pack(), "directory.npy")

    np.testing.assert_array_equal(back.sizes, directory.sizes)
    np.testing.assert_array_equal(back.checks, directory.checks)


def test_directory_with_any_flipped_byte_never_opens_the_lists(tmp_path: Path) -> None:
    path = tmp_path / "lists.bin"
    written = write_part(path, TEMPLATE, CORPUS.ids, CORPUS.vectors)
    data = written.directory.pack()
    unnoticed = []

    for position in range(len(data)):
        flipped = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        try:
            part = Lists(path, Directory.unpack(flipped, "directory.npy"), TEMPLATE.code_size)
            part.check(np.arange(part.nlist))
            same = np.array_equal(part.directory.sizes, written.directory.sizes)
        except IndexDamaged:
            continue
        if not same:
            unnoticed.append(position)
    assert unnoticed == []


@pytest.mark.parametrize("data", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_directory_of_other_bytes_is_damage_that_names_the_file(data: bytes) -> None:
    with pytest.raises(IndexDamaged, match=r"^parts/x/directory\.npy"):
        Directory.unpack(data, "parts/x/directory.npy")


def test_directory_of_another_array_is_damage(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.arange(16))

    with pytest.raises(IndexDamaged, match="directory"):
        Directory.unpack(stream.getvalue(), "directory.npy")


def test_directory_that_is_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "run",)

    stream = io.BytesIO()
    np.save(stream, np.array([Touch()], dtype=object), allow_pickle=True)

    with pytest.raises(IndexDamaged, match="directory"):
        Directory.unpack(stream.getvalue(), "directory.npy")
    assert not (tmp_path / "run").exists()
