"""An export to a bucket: the same files as to a folder."""

from pathlib import Path

import pytest

from pipelines import cli
from tests.pipelines.buckets import Bucket, new_bucket, server  # noqa: F401
from tests.pipelines.export.exported_corpus import Made


@pytest.fixture(scope="module")
def bucket(server: int) -> Bucket:  # noqa: F811
    return new_bucket(server, "exports")


@pytest.mark.parametrize("form", ["webdataset", "hf", "clip_retrieval", "jsonl"])
def test_export_to_a_bucket_writes_what_it_writes_to_a_folder(
    made: Made, tmp_path: Path, bucket: Bucket, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", f"corpus={made.corpus.location}", f"format={form}"]
    assert cli.main([*words, f"to={tmp_path / 'out'}"]) == 0
    wanted = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert cli.main([*words, f"to={bucket.url(form)}"]) == 0
    assert bucket.files(form) == wanted
    assert cli.main([*words, f"to={bucket.url(form)}"]) == 2
    assert "overwrite=true" in capsys.readouterr().err
    bucket.filesystem.delete_file(f"{bucket.name}/{form}/{min(wanted)}")
    assert cli.main([*words, f"to={bucket.url(form)}", "overwrite=true"]) == 0
    assert bucket.files(form) == wanted
