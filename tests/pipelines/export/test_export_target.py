"""Where an export goes: what is there already, what is interrupted, and what is asked wrongly."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.changes import Change, gone, record
from pipelines.corpus import DatasetInfo
from pipelines.export.run import export
from pipelines.export_jobs import ExportConfig, ExportFormat
from stages import schemas
from tests.pipelines.export.exported_corpus import Made, copied

FORMATS = [one.value for one in ExportFormat]


def _words(made: Made, to: Path, *more: str) -> list[str]:
    return ["export", f"corpus={made.corpus.location}", f"to={to}", *more]


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", FORMATS)
def test_export_to_a_folder_that_is_not_empty_is_refused_until_told_to_overwrite(
    made: Made, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(_words(made, tmp_path / "out", f"format={form}")) == 0
    first = _files(tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("not an export's")
    assert cli.main(_words(made, tmp_path / "out", f"format={form}")) == 2
    error = capsys.readouterr().err
    assert "overwrite=true" in error
    assert error.count("\n") == 1
    stale = next(path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != "mine.txt")
    stale.write_bytes(b"stale")
    assert cli.main(_words(made, tmp_path / "out", f"format={form}", "overwrite=true")) == 0
    assert _files(tmp_path / "out") == first | {"mine.txt": b"not an export's"}


class _Stopped(Exception):
    pass


@pytest.mark.parametrize("form", FORMATS)
def test_export_that_was_interrupted_goes_on_to_the_same_files(made: Made, tmp_path: Path, form: str) -> None:
    rows = 5 if ExportFormat(form) in (ExportFormat.WEBDATASET, ExportFormat.HF) else None
    config = ExportConfig(
        made.corpus.location, str(tmp_path / "whole"), ExportFormat(form), rows_per_file=rows
    )
    export(config)
    whole = _files(tmp_path / "whole")

    def stop(done: int, shards: int, items: int) -> None:
        if done == shards:
            raise _Stopped

    cut = ExportConfig(made.corpus.location, str(tmp_path / "cut"), ExportFormat(form), rows_per_file=rows)
    with pytest.raises(_Stopped):
        export(cut, stop)
    left = {name: data for name, data in _files(tmp_path / "cut").items() if not name.startswith(".")}
    assert left.items() <= whole.items()
    kept = {name: (tmp_path / "cut" / name).stat().st_ino for name in left}
    done = export(cut)
    assert _files(tmp_path / "cut") == whole
    assert done.written == export(ExportConfig(**{**vars(config), "overwrite": True})).written
    if rows:
        assert kept == {name: (tmp_path / "cut" / name).stat().st_ino for name in left}


def test_export_after_the_corpus_changed_starts_over(made: Made, tmp_path: Path) -> None:
    own, calls = copied(made, tmp_path), []
    to = tmp_path / "out"
    config = ExportConfig(own.corpus.location, str(to), ExportFormat.WEBDATASET, rows_per_file=5)

    def stop(done: int, shards: int, items: int) -> None:
        calls.append(done)
        if done == shards:
            raise _Stopped

    with pytest.raises(_Stopped):
        export(config, stop)
    first = next(iter(own.good))
    record(own.corpus, gone([first], Change.FORGOTTEN))
    done = export(config)
    assert (done.written, done.left_out["gone"]) == (len(own.good) - 1, 2)
    export(replace(config, to=str(tmp_path / "anew")))
    assert _files(to) == _files(tmp_path / "anew")
    assert all(own.good[first]["uri"].encode() not in data for data in _files(to).values())


def test_export_says_what_went_while_it_ran(made: Made, tmp_path: Path) -> None:
    own = copied(made, tmp_path)

    def take_down(done: int, shards: int, items: int) -> None:
        if done == 1:
            record(own.corpus, gone([list(own.good)[-1]], Change.FORGOTTEN))

    done = export(ExportConfig(own.corpus.location, str(tmp_path / "out"), ExportFormat.JSONL), take_down)
    assert any("went while" in note for note in done.notes)


@pytest.mark.parametrize("shard", [0, 2])
def test_export_beside_a_takedown_and_a_compaction_leaves_out_what_went(
    made: Made, tmp_path: Path, shard: int
) -> None:
    own = copied(made, tmp_path)
    lost = next(item for item in own.good if item >> schemas.ROW_BITS == shard)

    def compact(done: int, shards: int, items: int) -> None:
        if done == 1:
            record(own.corpus, gone([lost], Change.FORGOTTEN))
            assert cli.main(["compact", f"corpus={own.corpus.location}"]) == 0

    export(ExportConfig(own.corpus.location, str(tmp_path / "out"), ExportFormat.HF), compact)
    table = pq.read_table(tmp_path / "out" / "train-00000.parquet", columns=["image_id", "image"])
    found = {row["image_id"]: row["image"]["bytes"] for row in table.to_pylist()}
    assert found == {item: row["bytes"] for item, row in own.good.items() if item != lost}


def test_export_whose_process_is_killed_leaves_no_torn_file_and_goes_on(made: Made, tmp_path: Path) -> None:
    words = _words(made, tmp_path / "out", "format=webdataset", "rows_per_file=1")
    assert cli.main([*words[:2], f"to={tmp_path / 'whole'}", *words[3:]]) == 0
    whole = _files(tmp_path / "whole")
    program = "import sys; from pipelines import cli; sys.exit(cli.main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", program, *words]) as process:
        while not (tmp_path / "out" / "00002.tar").exists():
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    named = {name: data for name, data in _files(tmp_path / "out").items() if "." in name and name[0] != "."}
    assert named.items() <= whole.items()
    assert cli.main(words) == 0
    assert _files(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["format=tar"], "webdataset, hf, clip_retrieval, faiss, coco, jsonl"),
        (["format=coco", "captions=nobody"], "captions must be one of a"),
        (["format=faiss", "embeddings=nobody"], "embeddings must be one of a"),
        (["format=jsonl", "answers=nobody"], "answers must be one of a"),
        (["format=faiss", "captions=a"], "captions must be unset"),
        (["format=jsonl", "rows_per_file=5"], "rows_per_file must be unset"),
        (["format=hf", "rows_per_file=0"], "rows_per_file must be from 1"),
        (["format=hf", "image_id_key=x"], "image_id_key must be unset"),
        (["format=jsonl", "where=nothing > 3"], "where"),
        (["format=hf", "source.path=/no/such/folder"], "source.path"),
    ],
)
def test_export_asked_wrongly_ends_in_one_line_and_writes_nothing(
    made: Made, tmp_path: Path, more: Sequence[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(_words(made, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_export_into_the_corpus_or_onto_a_file_is_refused(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(_words(made, Path(made.corpus.location, "exported"), "format=jsonl")) == 2
    (tmp_path / "file").touch()
    assert cli.main(_words(made, tmp_path / "file", "format=jsonl")) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_export_where_there_are_several_captions_asks_which(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = copied(made, tmp_path)
    own.corpus.claim(DatasetInfo.of("captions/b", schemas.CAPTIONS, {"made": "by hand"}))
    assert cli.main(_words(own, tmp_path / "out", "format=jsonl")) == 2
    assert "a, b" in capsys.readouterr().err
    assert cli.main(_words(own, tmp_path / "out", "format=jsonl", "captions=b")) == 0


def test_export_of_a_corpus_that_names_no_source_wants_one(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = copied(made, tmp_path)
    Path(own.corpus.location, "source.json").unlink()
    assert cli.main(_words(own, tmp_path / "out", "format=hf")) == 2
    assert "source.path" in capsys.readouterr().err
    assert cli.main(_words(own, tmp_path / "out", "format=hf", f"source.path={own.photos}")) == 0


def test_export_of_no_corpus_fails_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", f"corpus={tmp_path}", f"to={tmp_path / 'out'}", "format=jsonl"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
