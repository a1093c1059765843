"""The corpus on disk: atomic files, fingerprints, row addresses, and bits that rot."""

import os
import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.corpus import Corpus, CorpusError, DatasetInfo, DriftError, fingerprint
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
    with pytest.raises(OSError, match="No space left"):
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


def test_check_with_shards_but_torn_record_is_drift(corpus: Corpus) -> None:
    info = DatasetInfo.of("captions/a", schemas.CAPTIONS, {"prompt": "describe"})
    corpus.claim(info)
    corpus.write_shard("captions/a", 0, _captions(0))
    corpus.write_bytes(info.to_json()[:20], "captions/a", "dataset.json")
    with pytest.raises(DriftError):
        corpus.check(info)


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
