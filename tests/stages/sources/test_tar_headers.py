"""Tests of stages/sources/tar_headers.py: tars of Python's tarfile, and tars that were made to be wrong."""

import io
import tarfile

import numpy as np
import pytest

from stages.sources.tar_headers import Kind, Member, NotATar, TarProblem, Window, members
from tests.stages.sources.tars import END, header, member, padded, pax, record

RANDOM = np.random.default_rng(6).bytes(1 << 20)


def found(data: bytes, block: int = 1 << 16) -> tuple[list[Member], TarProblem | None]:
    window = Window(lambda at, count: data[at : at + count], skip=block, block=block, peek=512)
    read: list[Member] = []
    try:
        for one in members(window, len(data)):
            read.append(one)
    except TarProblem as problem:
        return read, problem
    return read, None


def names(data: bytes) -> list[bytes]:
    return [one.name for one in found(data)[0]]


def _written(form: int) -> bytes:
    """A tar with members of all kinds, of names and sizes that need what its format has for them."""
    generator = np.random.default_rng(5)
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=form) as tar:
        for name in (
            "a.jpg",
            "d/" * 40 + "deep.jpg",
            "é.jpg",
            "d/b.txt",
            "n" * 90 + "/" + "m" * 99,
            "空.png",
        ):
            data = generator.bytes(int(generator.integers(0, 3000)))
            told = tarfile.TarInfo(name)
            told.size, told.mtime = len(data), 1_600_000_000 + (0.5 if form == tarfile.PAX_FORMAT else 0)
            tar.addfile(told, io.BytesIO(data))
        for name, kind in (("folder", tarfile.DIRTYPE), ("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE)):
            told = tarfile.TarInfo(name)
            told.type, told.linkname = kind, "a.jpg"
            tar.addfile(told)
        if form != tarfile.USTAR_FORMAT:
            told = tarfile.TarInfo("long/" * 800 + "x.jpg")
            told.size = 3
            tar.addfile(told, io.BytesIO(b"abc"))
    return held.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("block", [512, 4096, 1 << 20])
def test_members_of_every_format_are_those_of_tarfile(form: int, block: int) -> None:
    data = _written(form)
    read, problem = found(data, block)
    assert problem is None
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        wanted = tar.getmembers()
    kinds = {True: Kind.FILE, False: Kind.OTHER}
    assert [(one.name.rstrip(b"/").decode(), one.size, one.position) for one in read] == [
        (one.name, one.size, one.offset_data) for one in wanted
    ]
    assert [one.kind for one in read] == [
        Kind.LINK if one.issym() or one.islnk() else kinds[one.isfile()] for one in wanted
    ]


def test_members_of_sparse_files_have_their_name_and_what_follows_is_found() -> None:
    maps = b"\0" * 504 + b"\1" + b"\0" * 7
    old = (
        header(b"old.jpg", 700, b"S", magic=b"ustar  \0", extended=1) + maps + bytes(512) + padded(b"x" * 700)
    )
    new = pax(**{"GNU.sparse.major": b"1", "GNU.sparse.name": b"new.jpg", "path": b"GNUSparseFile.1/new.jpg"})
    new += member(b"short", b"y" * 100)
    read, problem = found(old + new + member(b"last.jpg", b"z") + END)
    assert problem is None
    assert [(one.name, one.kind) for one in read] == [
        (b"old.jpg", Kind.SPARSE),
        (b"new.jpg", Kind.SPARSE),
        (b"last.jpg", Kind.FILE),
    ]


def test_members_of_pax_records_win_over_the_header() -> None:
    body = b"j" * 600
    data = pax(path=b"a=b\nc.jpg", size=b"600", comment=b"") + header(b"old", 0) + padded(body)
    data += member(b"g", record(b"path", b"all.jpg"), b"g") + member(b"next.jpg", b"n") + END
    (first, second), problem = found(data)
    assert problem is None
    assert (first.name, first.size, data[first.position :][:600]) == (b"a=b\nc.jpg", 600, body)
    assert (second.name, second.size) == (b"next.jpg", 1)


def test_members_of_sizes_in_base_256_are_read() -> None:
    size = b"\x80" + (600).to_bytes(11)
    data = header(b"a.jpg", size) + padded(b"x" * 600) + member(b"b.jpg", b"y") + END
    assert [(one.name, one.size) for one in found(data)[0]] == [(b"a.jpg", 600), (b"b.jpg", 1)]


@pytest.mark.parametrize(
    "name", [b"/etc/x.jpg", b"../../x.jpg", b"a\nb.jpg", b"\xff\xfe.jpg", b"", b" ", b"\\x.jpg"]
)
def test_members_of_hostile_names_keep_them(name: bytes) -> None:
    assert names(member(name, b"x") + END) == [name]


def test_members_of_long_names_keep_them() -> None:
    long = b"d/" * 2000 + b"x.jpg"
    data = member(b"././@LongLink", long + b"\0", b"L", magic=b"ustar  \0") + member(long[:100], b"x") + END
    assert names(data) == [long]
    assert names(header(b"x.jpg", 0, prefix=b"p" * 155) + END) == [b"p" * 155 + b"/x.jpg"]
    # GNU's headers have other things where ustar has the prefix.
    assert names(header(b"x.jpg", 0, prefix=b"123", magic=b"ustar  \0") + END) == [b"x.jpg"]


GOOD = member(b"good.jpg", b"x" * 600)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (header(b"b.jpg", 5, checksum=b"000000\0 ") + padded(b"x"), "checksum"),
        (header(b"b.jpg", 5, checksum=b"zzzzzzzz") + padded(b"x"), "checksum"),
        (header(b"b.jpg", b"\xff" * 12), "size is no number"),
        (header(b"b.jpg", b"-0000000005\0"), "size is no number"),
        (header(b"b.jpg", b"00000000009\0"), "size is no number"),
        (header(b"b.jpg", b"0x1_0      \0"), "size is no number"),
        (pax(size=b"-5") + member(b"b.jpg"), "size at byte"),
        (pax(size=b"9" * 30) + member(b"b.jpg"), "size at byte"),
        (member(b"p", b"10 path", b"x") + member(b"b.jpg"), "records at byte"),
        (member(b"p", b"0 a=b\n", b"x") + member(b"b.jpg"), "records at byte"),
        (member(b"p", b"99999999999999999999999 a=b\n", b"x") + member(b"b.jpg"), "records at byte"),
        (header(b"long", 1 << 30, b"L") + member(b"b.jpg"), "take 1,073,741,824 bytes"),
        (RANDOM[:2048], "checksum"),
        (header(b"b.jpg", 5)[:300], "within a header"),
        (bytes(1 << 17) + GOOD, "after its end mark"),
        (b"", "no end mark"),
    ],
)
def test_members_before_what_is_damaged_are_told(bad: bytes, words: str) -> None:
    read, problem = found(GOOD + bad + (END if len(bad) % 512 == 0 and bad else b""))
    assert [one.name for one in read] == [b"good.jpg"]
    assert problem is not None
    assert problem.is_tar
    assert words in str(problem)


@pytest.mark.parametrize("size", [2000, 1 << 62, (1 << 63) + 5, 1 << 80])
def test_members_of_which_the_last_is_cut_off_are_told_with_it(size: int) -> None:
    data = GOOD + header(b"cut.jpg", b"\x80" + size.to_bytes(11)) + b"x" * 700
    read, problem = found(data)
    assert [one.name for one in read] == [b"good.jpg", b"cut.jpg"]
    assert read[-1].size == min(size, (1 << 63) - 1)
    assert problem is not None
    assert "cut off" in str(problem)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"short", "no tar"),
        (b"garbage " * 1000, "no tar"),
        (b"\x1f\x8b" + RANDOM[:2000], "gzip"),
        (b"\x28\xb5\x2f\xfd" + RANDOM[:2000], "zstd"),
        (b"BZh9" + RANDOM[:2000], "bzip2"),
    ],
)
def test_members_of_what_is_no_tar_are_refused(data: bytes, words: str) -> None:
    read, problem = found(data)
    assert read == []
    assert isinstance(problem, NotATar)
    assert words in str(problem)


@pytest.mark.parametrize("zeros", [512, 10240, 65536])
def test_members_of_zeros_are_none(zeros: int) -> None:
    assert found(bytes(zeros)) == ([], None)


def test_members_with_signed_checksums_are_read() -> None:
    head = bytearray(header(b"\xe9\xff.jpg"))
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % (sum(head) - 512)
    assert names(bytes(head) + END) == [b"\xe9\xff.jpg"]


def test_members_of_mutated_tars_end() -> None:
    """Whatever the bytes, the walk ends, and places lie in order."""
    generator = np.random.default_rng(7)
    data = _written(tarfile.PAX_FORMAT)
    for _ in range(300):
        mutant = bytearray(data)
        for at in generator.integers(0, len(data), 4):
            mutant[at] = generator.integers(256)
        positions = [one.position for one in found(bytes(mutant[: generator.integers(len(data))]))[0]]
        assert positions == sorted(set(positions))


def test_window_reads_ahead_where_headers_are_near_and_little_where_they_are_far() -> None:
    data, asked = RANDOM, []

    def read_at(at: int, count: int) -> bytes:
        asked.append(count)
        return data[at : at + count]

    near = Window(read_at, skip=4096, block=65536, peek=1024)
    assert all(near.read(at, 512) == data[at : at + 512] for at in range(0, 1 << 18, 2048))
    assert sum(asked) < 2 << 18
    assert len(asked) < 10
    asked.clear()
    far = Window(read_at, skip=4096, block=65536, peek=1024)
    assert all(far.read(at, 512) == data[at : at + 512] for at in range(1 << 14, 1 << 20, 1 << 15))
    assert sum(asked) <= 32 * 1024
