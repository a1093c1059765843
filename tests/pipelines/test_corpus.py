"""The corpus on disk: atomic files, fingerprints, row addresses, and bits that rot."""

import errno
import json
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.corpus import (
    Corpus,
    CorpusError,
    DatasetInfo,
    DriftError,
    RowMissingError,
    StaleWriterError,
    fingerprint,
)
from pipelines.room import CannotWriteError
from pipelines.shards import merged_file
from stages import schemas
from stages.schemas import image_id


def _captions(shard: int, rows: int = 4) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"image_id": image_id(shard, row), "caption": f"caption {shard}.{row}", "status": "ok"}
            for row in range(rows)
        ],
        schema=schemas.CAPTIONS,
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(str(tmp_path / "corpus"))


def test_shard_written_and_read_is_equal(corpus: Corpus) -> None:
    corpus.write_shard("captions/a", 7, _captions(7))
    assert corpus.shards("captions/a") == [7]
    assert corpus.read_shard("captions/a", 7).equals(_captions(7))


def test_shards_with_partial_and_foreign_files_lists_only_finished_ones(corpus: Corpus) -> None:
    corpus.write_shard("captions/a", 3, _captions(3))
    corpus.write_shard("captions/a", 1, _captions(1))
    folder = Path(corpus.path("captions/a"))
    (folder / ".partial-00").write_bytes(b"half")
    (folder / "shard-0000000002.parquet.tmp").write_bytes(b"half")
    assert corpus.shards("captions/a") == [1, 3]


def test_write_bytes_that_fails_leaves_old_file_and_nothing_else(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus.write_bytes(b"old", "CURRENT")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotWriteError, match="CURRENT"):
        corpus.write_bytes(b"new", "CURRENT")
    assert [entry.name for entry in Path(corpus.path()).iterdir()] == ["CURRENT"]
    assert corpus.read_bytes("CURRENT") == b"old"


def test_remove_partial_files_of_killed_writer_leaves_finished_files(corpus: Corpus) -> None:
    corpus.write_shard("items", 0, _captions(0))
    (Path(corpus.path("items")) / ".partial-ab").write_bytes(b"half")
    assert corpus.remove_partial_files() == 1
    assert [entry.name for entry in Path(corpus.path("items")).iterdir()] == ["shard-0000000000.parquet"]


def test_read_shard_with_any_flipped_data_bit_raises(corpus: Corpus) -> None:
    table = _captions(0, rows=200)
    corpus.write_shard("captions/a", 0, table)
    path = Path(corpus.path("captions/a", "shard-0000000000.parquet"))
    good = path.read_bytes()
    # Behind the magic and before the footer there is nothing but page headers and pages.
    for position in range(4, len(good) // 2, 37):
        bad = bytearray(good)
        bad[position] ^= 0x10
        path.write_bytes(bad)
        assert _is_error_or(corpus, table), f"a flipped bit at {position} changed values in silence"


def _is_error_or(corpus: Corpus, table: pa.Table) -> bool:
    """Whether the shard is refused, or the flipped bit was one that nobody reads."""
    try:
        return bool(corpus.read_shard("captions/a", 0).equals(table))
    except CorpusError:
        return True


def test_read_rows_across_shards_keeps_the_order_of_ids(corpus: Corpus) -> None:
    for shard in (0, 2):
        corpus.write_shard("captions/a", shard, _captions(shard))
    ids = [image_id(2, 1), image_id(0, 3), image_id(2, 0), image_id(2, 1)]
    rows = corpus.read_rows("captions/a", ids, ["image_id", "caption"])
    assert rows["image_id"].to_pylist() == ids
    assert rows["caption"].to_pylist() == ["caption 2.1", "caption 0.3", "caption 2.0", "caption 2.1"]


def test_fingerprint_depends_on_values_and_not_on_key_order() -> None:
    one = fingerprint({"a": 1, "b": {"c": [1, 2]}})
    assert one == fingerprint({"b": {"c": [1, 2]}, "a": 1})
    assert one != fingerprint({"a": 1, "b": {"c": [2, 1]}})


def test_claim_with_other_identity_names_both_fingerprints_and_the_change(corpus: Corpus) -> None:
    old = DatasetInfo.of("captions/a", schemas.CAPTIONS, {"prompt": "describe", "weights": "00"})
    new = DatasetInfo.of("captions/a", schemas.CAPTIONS, {"prompt": "explain", "weights": "00"})
    corpus.claim(old)
    with pytest.raises(DriftError) as caught:
        corpus.claim(new)
    message = str(caught.value)
    assert old.fingerprint in message
    assert new.fingerprint in message
    assert "describe" in message
    assert "explain" in message
    assert "overwrite=[captions/a]" in message
    assert "\n" not in message


def test_claim_with_torn_record_and_shards_of_the_same_values_writes_it_again(corpus: Corpus) -> None:
    info = _claimed(corpus, "describe")
    corpus.write_shard("captions/a", 0, _captions(0))
    corpus.write_bytes(info.to_json()[:20], "captions/a", "_dataset.json")
    corpus.claim(info)
    assert corpus.info("captions/a") == info


def test_check_with_torn_record_and_shards_of_other_values_is_drift(corpus: Corpus) -> None:
    info = _claimed(corpus, "describe")
    corpus.write_shard("captions/a", 0, _captions(0))
    corpus.write_bytes(info.to_json()[:20], "captions/a", "_dataset.json")
    with pytest.raises(DriftError):
        corpus.check(DatasetInfo.of("captions/a", schemas.CAPTIONS, {"prompt": "explain"}))


def test_check_with_other_columns_names_the_column(corpus: Corpus) -> None:
    _claimed(corpus, "describe")
    wider = schemas.CAPTIONS.append(pa.field("mood", pa.string()))
    with pytest.raises(DriftError, match="mood"):
        corpus.check(DatasetInfo.of("captions/a", wider, {"prompt": "describe"}))


@pytest.mark.parametrize("changed", ["identity", "columns", "properties", "checksum"])
def test_info_with_any_value_changed_counts_as_absent(corpus: Corpus, changed: str) -> None:
    info = DatasetInfo.of("captions/a", schemas.CAPTIONS, {"prompt": "describe"}, model="pocket")
    corpus.claim(info)
    stored = json.loads(info.to_json())
    stored[changed] = "0" if changed == "checksum" else {**stored[changed], "more": "1"}
    corpus.write_bytes(json.dumps(stored).encode(), "captions/a", "_dataset.json")
    assert corpus.info("captions/a") is None


def _claimed(corpus: Corpus, prompt: str) -> DatasetInfo:
    info = DatasetInfo.of("captions/a", schemas.CAPTIONS, {"prompt": prompt})
    corpus.claim(info)
    return info


def test_write_shard_twice_keeps_the_first_file(corpus: Corpus) -> None:
    corpus.write_shard("captions/a", 0, _captions(0))
    file = Path(corpus.path("captions/a", "shard-0000000000.parquet"))
    before = file.stat()
    corpus.write_shard("captions/a", 0, _captions(0, rows=2))
    assert corpus.read_shard("captions/a", 0).equals(_captions(0))
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_write_shard_without_hard_links_still_keeps_the_first_file(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refused)
    corpus.write_shard("captions/a", 0, _captions(0))
    corpus.write_shard("captions/a", 0, _captions(0, rows=2))
    assert corpus.read_shard("captions/a", 0).equals(_captions(0))
    assert [entry.name for entry in Path(corpus.path("captions/a")).iterdir()] == ["shard-0000000000.parquet"]


@pytest.mark.parametrize("lock", [b"", b'{"token": "other"}', b'{"tok', None])
def test_write_shard_of_a_run_that_was_taken_over_is_refused(corpus: Corpus, lock: bytes | None) -> None:
    fenced = Corpus(corpus.location, fence="mine")
    fenced.write_bytes(b'{"token": "mine"}', "LOCK")
    fenced.write_shard("captions/a", 0, _captions(0))
    if lock is None:
        fenced.delete("LOCK")
    else:
        fenced.write_bytes(lock, "LOCK")
    with pytest.raises(StaleWriterError):
        pickle.loads(pickle.dumps(fenced)).write_shard("captions/a", 1, _captions(1))
    assert [entry.name for entry in Path(corpus.path("captions/a")).iterdir()] == ["shard-0000000000.parquet"]


def test_write_shard_after_the_dataset_was_overwritten_is_refused(corpus: Corpus) -> None:
    _claimed(corpus, "describe")
    zombie = pickle.loads(pickle.dumps(corpus))
    corpus.drop("captions/a")
    _claimed(corpus, "explain")
    with pytest.raises(StaleWriterError):
        zombie.write_shard("captions/a", 0, _captions(0))
    corpus.write_shard("captions/a", 0, _captions(0))
    assert corpus.shards("captions/a") == [0]


def test_write_shard_whose_partial_file_vanished_is_refused(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def cleaned_up_first(partial: Path, target: Path) -> None:
        assert Corpus(corpus.location).remove_partial_files() == 1
        link(partial, target)

    monkeypatch.setattr(os, "link", cleaned_up_first)
    with pytest.raises(StaleWriterError):
        corpus.write_shard("captions/a", 0, _captions(0))
    assert corpus.shards("captions/a") == []


def _merge(corpus: Corpus, dataset: str, first: int, tables: list[pa.Table]) -> None:
    name = merged_file(first, first + len(tables) - 1)
    with corpus.writing_parquet(tables[0].schema, dataset, name) as writer:
        for table in tables:
            writer.write_table(table)


def test_merged_file_is_preferred_and_its_shards_are_seen(corpus: Corpus) -> None:
    for shard in (0, 1, 4):
        corpus.write_shard("captions/a", shard, _captions(shard))
    _merge(corpus, "captions/a", 1, [_captions(1, rows=2), _captions(2).slice(0, 0), _captions(3)])
    assert corpus.shards("captions/a") == [0, 1, 2, 3, 4]
    rows = {shard: len(table) for shard, table in corpus.scan("captions/a", ["caption"])}
    assert rows == {0: 4, 1: 2, 2: 0, 3: 4, 4: 4}
    assert corpus.read_shard("captions/a", 3).equals(_captions(3))
    corpus.drop("captions/a")
    assert corpus.shards("captions/a") == []
    assert list(Path(corpus.path("captions/a")).iterdir()) == []


def test_read_rows_of_a_shard_with_rows_left_out_finds_rows_by_id(corpus: Corpus) -> None:
    _merge(corpus, "captions/a", 0, [_captions(0).filter([True, False, False, True]), _captions(1)])
    ids = [image_id(1, 2), image_id(0, 3), image_id(0, 0)]
    rows = corpus.read_rows("captions/a", ids, ["caption"])
    assert rows["caption"].to_pylist() == ["caption 1.2", "caption 0.3", "caption 0.0"]
    with pytest.raises(RowMissingError, match=str(image_id(0, 1))):
        corpus.read_rows("captions/a", [image_id(0, 0), image_id(0, 1)], ["caption"])
    with pytest.raises(RowMissingError, match=str(image_id(1, 9))):
        corpus.read_rows("captions/a", [image_id(1, 9)], ["caption"])


def test_read_shard_that_was_merged_since_it_was_seen_is_found_again(corpus: Corpus) -> None:
    for shard in (0, 1):
        corpus.write_shard("captions/a", shard, _captions(shard))
    assert corpus.read_shard("captions/a", 1).equals(_captions(1))
    scan = corpus.scan("captions/a")
    next(scan)
    _merge(corpus, "captions/a", 0, [_captions(0), _captions(1)])
    for shard in (0, 1):
        corpus.delete("captions/a", f"shard-{shard:010d}.parquet")
    assert [shard for shard, _ in scan] == [1]
    assert corpus.read_shard("captions/a", 1).equals(_captions(1))
    with pytest.raises(FileNotFoundError):
        corpus.read_shard("captions/a", 2)


def test_drop_then_claim_takes_the_new_identity(corpus: Corpus) -> None:
    corpus.claim(DatasetInfo.of("captions/a", schemas.CAPTIONS, {"prompt": "describe"}))
    corpus.write_shard("captions/a", 0, _captions(0))
    new = DatasetInfo.of("captions/a", schemas.CAPTIONS, {"prompt": "explain"})
    corpus.drop("captions/a")
    corpus.claim(new)
    assert corpus.shards("captions/a") == []
    assert corpus.info("captions/a") == new


def test_info_read_back_equals_what_was_claimed(corpus: Corpus) -> None:
    info = DatasetInfo.of("embeddings/x", schemas.embeddings(8), {"size": (1, 2)}, dim=8, metric="cosine")
    corpus.claim(info)
    assert corpus.info("embeddings/x") == info
    assert corpus.datasets() == ["embeddings/x"]


def test_corpus_pickled_reads_the_same_files(corpus: Corpus) -> None:
    corpus.write_shard("items", 0, _captions(0))
    assert pickle.loads(pickle.dumps(corpus)).shards("items") == [0]
