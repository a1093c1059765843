"""Tests of tars as a source: what is listed of them, and what is read."""

import gc
import io
import json
import os
import subprocess
import tarfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import webdataset

from stages.schemas import PLAN
from stages.sources.config import Kind, SourceConfig, SourceRun
from stages.sources.containers import find_containers
from stages.sources.kinds import list_items, reader
from stages.sources.listing import Listing
from tests.stages.sources.tars import END, header, member, padded, pax

JPG = b"\xff\xd8 not a whole picture"


def tar_of(*members: tuple[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=form) as tar:
        for name, data in members:
            told = tarfile.TarInfo(name)
            told.size = len(data)
            tar.addfile(told, io.BytesIO(data))
    return held.getvalue()


def listed(path: Path, known: Mapping[str, Any] | None = None, **config: Any) -> Listing:
    return list_items(SourceConfig(str(path), Kind.TAR, **config), SourceRun(threads=3), known or {})


def rows_of(listing: Listing) -> dict[str, dict[str, Any]]:
    """What is listed, by URI, with what is said of it."""
    told = listing.details.read(listing.rows["detail"].combine_chunks())
    both = zip(listing.rows.to_pylist(), told.to_pylist(), strict=True)
    return {row["uri"]: row | said for row, said in both}


def one_tar(root: Path, data: bytes, **config: Any) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Of a folder with this tar: the rows by the name in the tar, and the notes."""
    (root / "s.tar").write_bytes(data)
    listing = listed(root, **config)
    return {uri.removeprefix("s.tar/"): row for uri, row in rows_of(listing).items()}, listing.notes


def read(path: Path, listing: Listing, threads: int = 4, **config: Any) -> dict[str, dict[str, Any]]:
    count = len(listing.rows)
    columns = {name: listing.rows[name] for name in PLAN.names if name in listing.rows.column_names}
    shard = pa.table({"image_id": np.arange(count), **columns})
    stage = reader(SourceConfig(str(path), Kind.TAR, **config), SourceRun(threads=threads))
    done = stage(shard)
    assert done.select(shard.column_names).equals(shard)
    return {row["uri"]: row for row in done.to_pylist()}


def test_list_tars_images_come_with_place_and_size_of_the_tar(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    data = tar_of(("a/1.jpg", JPG), ("a/1.PNG", b"png"), ("notes.md", b"x"), ("noextension", JPG))
    (tmp_path / "deep/s.tar").write_bytes(data)
    os.utime(tmp_path / "deep/s.tar", ns=(1, 1_600_000_000_123_456_789))
    listing = listed(tmp_path)
    rows = rows_of(listing)
    assert list(rows) == ["deep/s.tar/a/1.PNG", "deep/s.tar/a/1.jpg"]
    row = rows["deep/s.tar/a/1.jpg"]
    assert (row["container"], row["size"], row["mtime_ns"]) == (
        "deep/s.tar",
        len(JPG),
        1_600_000_000_123_456_789,
    )
    assert data[row["position"] :].startswith(JPG)
    assert (listing.unchanged, listing.notes) == ((), ())
    assert listing.read == tuple(find_containers(str(tmp_path), (".tar",)))


def test_list_tars_as_webdataset_writes_them_gives_its_samples(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    samples = [
        {
            "__key__": f"{number // 10}/{number:04d}",
            "jpg": generator.bytes(int(generator.integers(1, 5000))),
            "json": {"number": number, "url": "größe"},
            "txt": f"picture {number}",
        }
        for number in range(50)
    ]
    with webdataset.ShardWriter(str(tmp_path / "%05d.tar"), maxcount=20, verbose=0) as writer:
        for written in samples:
            writer.write(written)
    listing = listed(tmp_path)
    pictures = read(tmp_path, listing)
    files = sorted(str(path) for path in tmp_path.glob("*.tar"))
    assert len(files) == 3
    wanted = _samples_of(files)
    found = {uri.partition("/")[2]: row for uri, row in rows_of(listing).items()}
    assert len(found) == len(wanted) == 50
    assert listing.notes == ()
    for sample in wanted:
        row = found[f"{sample['__key__']}.jpg"]
        assert row["original_caption"] == sample["txt"].decode()
        assert json.loads(row["metadata"]) == json.loads(sample["json"])
        assert pictures[row["uri"]]["bytes"] == sample["jpg"]


def _samples_of(files: list[str]) -> list[dict[str, Any]]:
    """As the library reads them; it leaves files to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        samples = list(webdataset.WebDataset(files, shardshuffle=False))
        gc.collect()
    return samples


@pytest.mark.parametrize("order", ["jpg json txt", "json jpg txt", "txt json jpg"])
def test_list_tars_companions_stand_before_or_behind(tmp_path: Path, order: str) -> None:
    said = {"jpg": JPG, "json": b'{"k": 1}', "txt": b" words \n"}
    members = [(f"{key}.{name}", said[name]) for key in ("x/1", "x/2") for name in order.split()]
    rows, notes = one_tar(tmp_path, tar_of(*members))
    assert {name: (row["original_caption"], row["metadata"]) for name, row in rows.items()} == {
        "x/1.jpg": ("words", '{"k":1}'),
        "x/2.jpg": ("words", '{"k":1}'),
    }
    assert notes == ()


def test_list_tars_of_a_sample_with_several_images_all_are_items(tmp_path: Path) -> None:
    rows, _ = one_tar(tmp_path, tar_of(("1.left.jpg", JPG), ("1.right.png", b"2"), ("1.json", b'{"k": 1}')))
    assert {name: row["metadata"] for name, row in rows.items()} == {
        "1.left.jpg": '{"k":1}',
        "1.right.png": '{"k":1}',
    }


def test_list_tars_samples_of_the_same_key_do_not_share_what_is_said(tmp_path: Path) -> None:
    first = [("1.jpg", JPG), ("1.json", b'{"k": 1}')]
    second = [("1.jpg", b"other"), ("1.txt", b"second")]
    apart = [("2.jpg", JPG)]
    for members in (first + second, first + apart + second):
        rows, notes = one_tar(tmp_path, tar_of(*members))
        assert (rows["1.jpg"]["metadata"], rows["1.jpg"]["original_caption"]) == ('{"k":1}', None)
        assert (rows["1.jpg~2"]["metadata"], rows["1.jpg~2"]["original_caption"]) == (None, "second")
        assert rows["1.jpg~2"]["size"] == 5
        assert "1 images whose name was there already" in " ".join(notes)


def test_list_tars_what_stands_apart_from_its_image_is_counted(tmp_path: Path) -> None:
    rows, notes = one_tar(
        tmp_path, tar_of(("1.jpg", JPG), ("2.jpg", JPG), ("1.txt", b"one"), ("2.txt", b"two"))
    )
    assert rows["1.jpg"]["original_caption"] is None
    assert rows["2.jpg"]["original_caption"] is None
    assert "2 metadata or captions that do not stand next to" in " ".join(notes)


@pytest.mark.parametrize(
    ("config", "caption", "metadata"),
    [
        ({}, "of the file", '{"caption":"of the object","alt":"other","n":1}'),
        ({"metadata": ("n", "nowhere")}, "of the file", '{"n":1}'),
        ({"metadata": ("nowhere",)}, "of the file", None),
        ({"caption": "alt"}, "other", '{"caption":"of the object","alt":"other","n":1}'),
        ({"caption": "n"}, None, '{"caption":"of the object","alt":"other","n":1}'),
    ],
)
def test_list_tars_chosen_keys_are_kept(
    tmp_path: Path, config: dict[str, Any], caption: str | None, metadata: str | None
) -> None:
    said = b'{"caption": "of the object", "alt": "other", "n": 1}'
    rows, _ = one_tar(tmp_path, tar_of(("1.jpg", JPG), ("1.json", said), ("1.txt", b"of the file")), **config)
    assert (rows["1.jpg"]["original_caption"], rows["1.jpg"]["metadata"]) == (caption, metadata)


@pytest.mark.parametrize(
    ("said", "metadata"),
    [
        (b"{", None),
        (b"[1]", None),
        (b"\xff{}", None),
        (b"[" * 100_000, None),
        (b'{"a": "' + b"x" * (1 << 20) + b'"}', None),
        (b'{"a": 1e999}', None),
        (b'{"a": NaN, "b": -Infinity}', '{"a":null,"b":null}'),
        (b'{"a": "\\ud800"}', '{"a":"?"}'),
        (b'\xef\xbb\xbf{"a": 1}', '{"a":1}'),
    ],
)
def test_list_tars_broken_metadata_is_none_and_counted(
    tmp_path: Path, said: bytes, metadata: str | None
) -> None:
    rows, notes = one_tar(tmp_path, tar_of(("1.json", said), ("1.jpg", JPG), ("2.jpg", JPG)))
    assert rows["1.jpg"]["metadata"] == metadata
    assert ("that are not read" in " ".join(notes)) is (metadata is None)
    assert rows["2.jpg"]["metadata"] is None


def test_list_tars_links_folders_and_hidden_members_are_no_items(tmp_path: Path) -> None:
    data = member(b"soft.jpg", b"", b"2") + member(b"hard.jpg", b"", b"1") + member(b"dir.jpg/", b"", b"5")
    data += member(b"null.jpg", b"", b"3") + member(b"._a.jpg", JPG) + member(b".cache/b.jpg", JPG)
    rows, notes = one_tar(tmp_path, data + member(b"./c.jpg", JPG) + END)
    assert list(rows) == ["./c.jpg"]
    assert "2 links" in " ".join(notes)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"/etc/x.jpg", "/etc/x.jpg"),
        (b"../../x.jpg", "../../x.jpg"),
        (b"a\nb.jpg", "a\nb.jpg"),
        (b"\xff\xfe.jpg", "\\xff\\xfe.jpg"),
        (b"n" * 4000 + b".jpg", "n" * 4000 + ".jpg"),
        (b"a\0b.jpg", "a\0b.jpg"),
    ],
)
def test_tar_hostile_names_stay_text_and_their_images_are_read(
    tmp_path: Path, name: bytes, shown: str
) -> None:
    (tmp_path / "s.tar").write_bytes(pax(path=name) + member(b"short", JPG) + END)
    listing = listed(tmp_path)
    assert listing.rows["uri"].to_pylist() == [f"s.tar/{shown}"]
    assert read(tmp_path, listing)[f"s.tar/{shown}"]["bytes"] == JPG


def test_list_tars_bad_ones_are_named_and_good_ones_are_taken(tmp_path: Path) -> None:
    good = tar_of(("1.jpg", JPG), ("2.jpg", JPG * 300))
    (tmp_path / "good.tar").write_bytes(good)
    (tmp_path / "cut.tar").write_bytes(good[:3000])
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "zeros.tar").write_bytes(bytes(10240))
    (tmp_path / "garbage.tar").write_bytes(b"garbage " * 999)
    (tmp_path / "packed.tar.gz").write_bytes(b"\x1f\x8b" + bytes(999))
    listing = listed(tmp_path)
    assert list(rows_of(listing)) == ["cut.tar/1.jpg", "cut.tar/2.jpg", "good.tar/1.jpg", "good.tar/2.jpg"]
    assert [one.name for one in listing.read] == ["cut.tar", "good.tar", "zeros.tar"]
    notes = " ".join(listing.notes)
    assert all(f"{name} " in notes for name in ("cut.tar", "empty.tar", "garbage.tar", "packed.tar.gz"))
    assert "decompress" in notes
    assert "zeros.tar" not in notes
    assert "good.tar " not in notes
    pictures = read(tmp_path, listing)
    assert pictures["cut.tar/1.jpg"]["bytes"] == JPG
    assert pictures["cut.tar/2.jpg"]["status"] == "truncated"


def test_list_tars_with_nothing_readable_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"garbage " * 999)
    with pytest.raises(ValueError, match=r"a\.tar is no tar$"):
        listed(tmp_path)


def test_list_tars_many_bad_ones_make_few_notes(tmp_path: Path) -> None:
    (tmp_path / "good.tar").write_bytes(tar_of(("1.jpg", JPG)))
    for number in range(30):
        (tmp_path / f"bad-{number}.tar").write_bytes(b"")
    notes = listed(tmp_path).notes
    assert len(notes) == 6
    assert "30 tars" in notes[-1]


def test_list_tars_known_ones_are_not_opened(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.tar").write_bytes(tar_of(("1.jpg", JPG)))
    known = {one.name: one for one in listed(tmp_path).read}
    for name in ("a", "b"):
        found = (tmp_path / f"{name}.tar").stat()
        (tmp_path / f"{name}.tar").write_bytes(b"\xaa" * found.st_size)
        os.utime(tmp_path / f"{name}.tar", ns=(found.st_atime_ns, found.st_mtime_ns + (name == "b")))
    (tmp_path / "c.tar").write_bytes(tar_of(("1.jpg", JPG)))
    listing = listed(tmp_path, known)
    assert listing.unchanged == ("a.tar",)
    assert list(rows_of(listing)) == ["c.tar/1.jpg"]


def test_read_tar_gives_all_bytes_from_many_tars_and_sizes(tmp_path: Path) -> None:
    generator = np.random.default_rng(11)
    wanted: dict[str, bytes] = {}
    for tar in range(70):
        files = {f"{n}.jpg": generator.bytes(int(generator.integers(1, 9000))) for n in range(5)}
        if tar == 0:
            files |= {f"big{n}.jpg": generator.bytes(3 << 20) for n in range(4)}
            files |= {"huge.jpg": generator.bytes(9 << 20), "gap.bin": bytes(2 << 20), "last.jpg": b"x"}
        (tmp_path / f"{tar:02d}.tar").write_bytes(tar_of(*files.items()))
        wanted |= {f"{tar:02d}.tar/{name}": data for name, data in files.items() if name.endswith("jpg")}
    listing = listed(tmp_path)
    for threads in (1, 4):
        rows = read(tmp_path, listing, threads)
        assert {uri: row["bytes"] for uri, row in rows.items()} == wanted
        assert {row["status"] for row in rows.values()} == {"ok"}


def test_read_tar_what_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    sparse = header(b"sparse.jpg", 600, b"S", magic=b"ustar  \0") + padded(b"x" * 600)
    members = member(b"ok.jpg", b"12345") + member(b"empty.jpg") + member(b"large.jpg", b"123456")
    (tmp_path / "s.tar").write_bytes(members + sparse + END)
    for name in ("gone", "new", "lost"):
        (tmp_path / f"{name}.tar").write_bytes(tar_of(("1.jpg", JPG)))
    listing = listed(tmp_path)
    (tmp_path / "gone.tar").unlink()
    os.utime(tmp_path / "new.tar", ns=(1, 1))
    lost = pa.array([None if name == "lost.tar" else name for name in listing.rows["container"].to_pylist()])
    number = listing.rows.column_names.index("container")
    listing = Listing(listing.rows.set_column(number, "container", lost), listing.details)
    rows = read(tmp_path, listing, max_bytes=5)
    assert {uri: row["status"] for uri, row in rows.items()} == {
        "gone.tar/1.jpg": "missing",
        "lost.tar/1.jpg": "missing",
        "new.tar/1.jpg": "changed",
        "s.tar/empty.jpg": "empty",
        "s.tar/large.jpg": "too_large",
        "s.tar/ok.jpg": "ok",
        "s.tar/sparse.jpg": "unsupported",
    }
    assert all((row["bytes"] is None) == (row["error"] is not None) for row in rows.values())


def test_tar_that_leads_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.tar").write_bytes(tar_of(("1.jpg", JPG)))
    (tmp_path / "in/s.tar").write_bytes(tar_of(("1.jpg", JPG)))
    listing = listed(tmp_path / "in")
    (tmp_path / "in/s.tar").unlink()
    (tmp_path / "in/s.tar").symlink_to(tmp_path / "secret.tar")
    assert read(tmp_path / "in", listing)["s.tar/1.jpg"]["status"] == "missing"


def test_tar_made_by_the_tar_program_with_holes_and_long_names(tmp_path: Path) -> None:
    (tmp_path / "in/d").mkdir(parents=True)
    with (tmp_path / "in/holes.jpg").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (tmp_path / f"in/d/{'n' * 200}.jpg").write_bytes(JPG)
    for form in ("gnu", "posix"):
        made = tmp_path / f"{form}.tar"
        subprocess.run(["tar", f"--format={form}", "-cSf", made, "-C", tmp_path / "in", "."], check=True)
    listing = listed(tmp_path)
    rows = read(tmp_path, listing)
    for form in ("gnu", "posix"):
        assert rows[f"{form}.tar/./d/{'n' * 200}.jpg"]["bytes"] == JPG
        assert rows[f"{form}.tar/./holes.jpg"]["status"] == "unsupported"
    assert len(rows) == 4
