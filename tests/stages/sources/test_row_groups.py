"""Row groups that are decoded once and in order, whoever asks for their rows and when."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.sources.row_groups import DamagedError, RowGroup, read_rows
from tests.stages.sources.recorded import Reads, recorded_store

ROWS, SIZE, SHARD = 2000, 3000, 100
FOOTER = 1 << 16  # what pyarrow reads to find a footer


def _images(seed: int, rows: int = ROWS) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.randrange(SIZE // 2, SIZE)) for _ in range(rows)]


def _write(path: Path, images: list[bytes], **options: object) -> None:
    options = {"row_group_size": len(images), "use_dictionary": False, **options}
    options |= {"data_page_size": 1 << 15, "write_batch_size": 8}
    pq.write_table(pa.table({"image": images}), path, **options)


def _group(folder: Path, reads: Reads, name: str = "a.parquet", number: int = 0) -> RowGroup:
    mtime_ns = (folder / name).stat().st_mtime_ns
    return RowGroup(recorded_store(folder, reads), str(folder), name, mtime_ns, number, None)


def _read(group: RowGroup, start: int, end: int) -> list[bytes]:
    rows = read_rows(group, np.arange(start, end))
    assert rows.damage is None
    found: list[bytes] = rows.images["bytes"].to_pylist()
    return found


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group of 4.5 MB counts as one that must not be held as a whole."""
    for name, size in (("_WHOLE_BYTES", 1 << 20), ("_BUFFER_BYTES", 1 << 16), ("_BATCH_BYTES", 1 << 17)):
        monkeypatch.setattr(f"stages.sources.row_groups.{name}", size)


@pytest.mark.usefixtures("streamed")
def test_read_rows_of_shards_in_order_reads_every_byte_once_in_order(tmp_path: Path) -> None:
    images, reads = _images(1), Reads()
    _write(tmp_path / "a.parquet", images)
    group = _group(tmp_path, reads)
    for start in range(0, ROWS, SHARD):
        assert _read(group, start, start + SHARD) == images[start : start + SHARD]
    length = (tmp_path / "a.parquet").stat().st_size
    starts = [start for _, start, count in reads.ranges if start < length - FOOTER]
    assert len(starts) > 20
    assert starts == sorted(starts)
    assert reads.bytes_of("a.parquet") < length + 2 * FOOTER


@pytest.mark.usefixtures("streamed")
def test_read_rows_by_callers_in_any_order_reads_every_byte_once(tmp_path: Path) -> None:
    images, reads = _images(2), Reads()
    _write(tmp_path / "a.parquet", images)
    group = _group(tmp_path, reads)
    starts = list(range(0, ROWS, SHARD))
    random.Random(3).shuffle(starts)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda start: _read(group, start, start + SHARD), starts))
    assert found == [images[start : start + SHARD] for start in starts]
    assert reads.bytes_of("a.parquet") < (tmp_path / "a.parquet").stat().st_size + 2 * FOOTER


@pytest.mark.usefixtures("streamed")
def test_read_rows_backwards_with_little_memory_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.sources.row_groups._PASSED_BYTES", 1 << 19)
    images = _images(4, 600)
    _write(tmp_path / "a.parquet", images)
    group = _group(tmp_path, Reads())
    for start in range(500, -1, -100):
        assert _read(group, start, start + 100) == images[start : start + 100]


@pytest.mark.usefixtures("streamed")
def test_read_rows_streamed_holds_a_part_of_the_row_group(tmp_path: Path) -> None:
    images = _images(5)
    _write(tmp_path / "a.parquet", images)
    group, before = _group(tmp_path, Reads()), pa.total_allocated_bytes()
    pool = pa.default_memory_pool()
    most = 0
    for start in range(0, ROWS, SHARD):
        read_rows(group, np.arange(start, start + SHARD))
        most = max(most, pool.bytes_allocated() - before)
    assert most < sum(map(len, images)) / 3


def test_read_rows_with_gaps_gives_those_rows(tmp_path: Path) -> None:
    images = _images(6, 300)
    _write(tmp_path / "a.parquet", images)
    wanted = np.array([0, 1, 5, 17, 200, 299])
    rows = read_rows(_group(tmp_path, Reads()), wanted)
    assert rows.images["bytes"].to_pylist() == [images[row] for row in wanted]


def test_read_rows_that_are_not_there_are_fewer(tmp_path: Path) -> None:
    images = _images(7, 10)
    _write(tmp_path / "a.parquet", images)
    rows = read_rows(_group(tmp_path, Reads()), np.array([8, 9, 10, 11]))
    assert (rows.images["bytes"].to_pylist(), rows.damage) == (images[8:], None)
    beyond = read_rows(_group(tmp_path, Reads(), number=3), np.array([0]))
    assert (len(beyond.images), beyond.damage) == (0, None)


@pytest.mark.usefixtures("streamed")
def test_read_rows_of_a_damaged_page_gives_those_before_it_for_every_cut(tmp_path: Path) -> None:
    images, path = _images(8), tmp_path / "a.parquet"
    _write(path, images, write_page_checksum=True, compression="none")
    data = bytearray(path.read_bytes())
    data[data.index(images[1500]) + 7] ^= 1
    lengths = set()
    for number, size in enumerate((70, 512)):
        copy = tmp_path / f"{number}.parquet"
        copy.write_bytes(data)
        group = _group(tmp_path, Reads(), copy.name)
        found: list[bytes] = []
        for start in range(0, ROWS, size):
            rows = read_rows(group, np.arange(start, min(start + size, ROWS)))
            found += rows.images["bytes"].to_pylist()
            assert (rows.damage is not None) == (start + size > len(found) and len(found) < ROWS)
        assert found == images[: len(found)]
        lengths.add(len(found))
    assert len(lengths) == 1
    assert 1000 < lengths.pop() <= 1500


def test_read_rows_of_a_storage_that_fails_raises_and_a_later_try_reads_them(tmp_path: Path) -> None:
    images, reads = _images(9, 50), Reads(failing={"a.parquet"})
    _write(tmp_path / "a.parquet", images)
    group = _group(tmp_path, reads)
    with pytest.raises(OSError, match="the storage fails"):
        read_rows(group, np.arange(50))
    reads.failing.clear()
    assert _read(group, 0, 50) == images


def test_read_rows_of_what_is_no_parquet_raises_damage(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"x" * 100 + b"PAR1")
    with pytest.raises(DamagedError):
        read_rows(_group(tmp_path, Reads()), np.arange(1))
