"""What a corpus says of where its images came from."""

import json
from pathlib import Path

import pytest

from pipelines.corpus import Corpus, CorpusError
from pipelines.source_record import SOURCE, record_source, recorded_source
from stages.sources.config import Kind, SourceConfig


def test_recorded_source_is_the_one_that_was_recorded_wherever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Corpus(str(tmp_path / "corpus"))
    assert recorded_source(corpus) is None
    monkeypatch.chdir(tmp_path)
    record_source(corpus, SourceConfig("tars", Kind.TAR, metadata=("width",), caption="alt"))
    monkeypatch.chdir("/")
    wanted = SourceConfig(str(tmp_path / "tars"), Kind.TAR, metadata=("width",), caption="alt")
    assert recorded_source(corpus) == wanted


def test_record_source_keeps_no_secret_and_such_a_place_is_not_read(tmp_path: Path) -> None:
    corpus = Corpus(str(tmp_path))
    record_source(corpus, SourceConfig("s3://key:hunter2@bucket/photos"))
    assert b"hunter2" not in (tmp_path / SOURCE).read_bytes()
    with pytest.raises(CorpusError, match=r"source\.path"):
        recorded_source(corpus)


def test_record_source_of_the_same_source_leaves_the_file_alone(tmp_path: Path) -> None:
    corpus = Corpus(str(tmp_path))
    record_source(corpus, SourceConfig("s3://bucket/photos"))
    before = (tmp_path / SOURCE).stat()
    record_source(corpus, SourceConfig("s3://bucket/photos"))
    assert (tmp_path / SOURCE).stat().st_ino == before.st_ino


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"path": "a", "kind": "zip"})])
def test_recorded_source_that_is_damaged_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / SOURCE).write_text(text)
    with pytest.raises(CorpusError, match=SOURCE):
        recorded_source(Corpus(str(tmp_path)))
