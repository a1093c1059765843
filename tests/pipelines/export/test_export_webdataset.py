"""Tars of images: read by the webdataset library, by tarfile, and as img2dataset's tables are."""

import json
import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from webdataset.tariterators import group_by_keys, tar_file_expander

from pipelines import cli
from stages.schemas import PLACE
from stages.sources.config import Kind, SourceConfig, SourceRun
from stages.sources.kinds import list_items, reader
from tests.pipelines.export.exported_corpus import GONE, UNCAPTIONED, Made, copied

PLAN_OF_SOURCE = ["uri", "size", "mtime_ns", *PLACE.names]


def _export(made: Made, to: Path, *more: str) -> int:
    return cli.main(["export", f"corpus={made.corpus.location}", f"to={to}", "format=webdataset", *more])


def _samples(to: Path) -> list[dict[str, Any]]:
    """By the library's own stages; it leaves files that it opens itself to the garbage collector."""
    with ExitStack() as opened:
        tars = [
            {"url": str(path), "stream": opened.enter_context(path.open("rb"))}
            for path in sorted(to.glob("*.tar"))
        ]
        return list(group_by_keys(tar_file_expander(tars)))


def test_export_webdataset_is_read_by_the_library_with_bytes_texts_and_json(
    made: Made, tmp_path: Path
) -> None:
    assert _export(made, tmp_path / "out", "answers=a") == 0
    samples = {json.loads(sample["json"])["image_id"]: sample for sample in _samples(tmp_path / "out")}
    assert list(samples) == list(made.good)
    for item, wanted in made.good.items():
        sample, said = samples[item], json.loads(samples[item]["json"])
        assert sample["jpg" if wanted["format"] == "jpeg" else "png"] == wanted["bytes"]
        assert sample.get("txt", b"").decode() == (wanted["caption"] or "")
        assert (said["uri"], said.get("caption")) == (wanted["uri"], wanted["caption"])
        assert said["url"] == f"https://example.com/{item}"
        assert (said["height"], said["width"]) == (wanted["height"], wanted["width"])
        assert [answer["answer"] for answer in said["answers"]] == [f"{item} 0", f"{item} 1"]
        # A key of the metadata that is img2dataset's own keeps its value under another name.
        assert (said["key"], said["metadata_key"]) == (sample["__key__"], f"k{item}")
    assert "txt" not in samples[UNCAPTIONED]


def test_export_webdataset_cuts_tars_and_tables_as_img2dataset_does(made: Made, tmp_path: Path) -> None:
    assert _export(made, tmp_path / "out", "rows_per_file=6") == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    parts = [f"{number:05d}" for number in range(3)]
    assert names == sorted(f"{p}{end}" for p in parts for end in (".tar", ".parquet", "_stats.json"))
    keys = [sample["__key__"] for sample in _samples(tmp_path / "out")]
    assert keys == [f"{number // 6:05d}{number % 6}" for number in range(16)]
    for part in parts:
        table = pq.read_table(tmp_path / "out" / f"{part}.parquet")
        with tarfile.open(tmp_path / "out" / f"{part}.tar") as tar:
            stems = [name.partition(".")[0] for name in tar.getnames()]
        assert table["key"].to_pylist() == list(dict.fromkeys(stems))
        assert set(table["status"].to_pylist()) == {"success"}
        assert json.loads((tmp_path / "out" / f"{part}_stats.json").read_text())["successes"] == len(table)


def test_export_webdataset_leaves_out_what_the_source_has_no_more(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = copied(made, tmp_path)
    lost, changed, *_ = own.good
    (own.photos / own.good[lost]["uri"]).unlink()
    (own.photos / own.good[changed]["uri"]).write_bytes(b"other bytes")
    assert _export(own, tmp_path / "out") == 0
    found = [json.loads(sample["json"])["image_id"] for sample in _samples(tmp_path / "out")]
    assert found == [item for item in own.good if item not in (lost, changed)]
    table = pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    failed = {row["image_id"] for row in table if row["status"] == "failed_to_download"}
    assert failed == {lost, changed}
    told = capsys.readouterr().out
    assert "source: missing" in told
    assert "source: changed" in told


@pytest.mark.parametrize(("limit", "code"), [([], 3), (["max_reject_ratio=1"], 0)])
@pytest.mark.parametrize("form", ["webdataset", "hf"])
def test_export_whose_source_lacks_most_images_ends_with_code_3(
    made: Made, tmp_path: Path, form: str, limit: list[str], code: int
) -> None:
    own = copied(made, tmp_path)
    for row in list(own.good.values())[4:]:
        (own.photos / row["uri"]).unlink()
    words = (f"corpus={own.corpus.location}", f"to={tmp_path / 'out'}", f"format={form}", *limit)
    assert cli.main(("export", *words)) == code
    assert any((tmp_path / "out").iterdir())


def test_export_webdataset_of_a_moved_source_reads_it_from_where_it_is_said_to_be(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = copied(made, tmp_path)
    own.photos.rename(tmp_path / "moved")
    assert _export(own, tmp_path / "out", f"source.path={tmp_path / 'moved'}", "captions=original") == 0
    captions = {
        json.loads(s["json"])["image_id"]: s.get("txt", b"").decode() for s in _samples(tmp_path / "out")
    }
    assert captions == {item: row["original_caption"] or "" for item, row in own.good.items()}


def test_export_webdataset_where_a_condition_holds_writes_only_that(made: Made, tmp_path: Path) -> None:
    assert _export(made, tmp_path / "out", "where=metadata.score < 3 and format == 'png'") == 0
    found = [json.loads(sample["json"])["image_id"] for sample in _samples(tmp_path / "out")]
    assert found == [item for item in made.good if item < 6 and item % 2]
    assert GONE not in found


def test_export_webdataset_is_a_source_of_the_same_images_captions_and_metadata(
    made: Made, tmp_path: Path
) -> None:
    assert _export(made, tmp_path / "out", "rows_per_file=7") == 0
    source = SourceConfig(str(tmp_path / "out"), Kind.TAR)
    listing = list_items(source, SourceRun(), {})
    told = listing.details.read(listing.rows["detail"].combine_chunks()).to_pylist()
    ids = [json.loads(one["metadata"])["image_id"] for one in told]
    assert ids == list(made.good)
    assert [one["original_caption"] for one in told] == [row["caption"] for row in made.good.values()]
    assert [json.loads(one["metadata"])["score"] for one in told] == [item / 2 for item in made.good]
    number = pa.array(range(len(listing.rows)), pa.int64())
    read = reader(source, SourceRun())(listing.rows.select(PLAN_OF_SOURCE).append_column("image_id", number))
    assert read["bytes"].to_pylist() == [row["bytes"] for row in made.good.values()]
