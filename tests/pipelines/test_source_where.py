"""`source.where`: which of what is new is taken up, and that what is known stays."""

from pathlib import Path

import pytest

from pipelines import cli
from pipelines.corpus import Corpus
from stages.pocket.corpus import write_pictures


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("kept", "left"):
        write_pictures(tmp_path / "photos" / name, 3, seed=len(name) + ord(name[0]))
    return tmp_path / "photos"


def _night(photos: Path, *more: str, command: str = "nightly") -> int:
    corpus = [f"corpus={photos.parent / 'corpus'}"] if command == "nightly" else []
    plain = ["cluster=local", "tracking=off", "encoder=pocket", "captioner=none", "index=none"]
    return cli.main([command, f"source.path={photos}", *corpus, *(plain if corpus else []), *more])


def _folders(photos: Path) -> list[str]:
    corpus = Corpus(str(photos.parent / "corpus"))
    uris = [uri for _, table in corpus.scan("items", ["uri"]) for uri in table["uri"].to_pylist()]
    return sorted(uri.split("/")[0] for uri in uris)


def test_source_where_takes_up_what_meets_it_and_says_what_it_left_out(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = "source.where=starts_with(uri, 'kept/') and size > 0"
    assert _night(photos, wanted, "dry_run=true") == 0
    assert "left out by source.where" in capsys.readouterr().out
    assert not (photos.parent / "corpus").exists()
    assert _night(photos, wanted) == 0
    assert _folders(photos) == ["kept"] * 3
    assert "3 left out by source.where" in " ".join(capsys.readouterr().out.split())


def test_source_where_that_changes_buries_nothing(photos: Path) -> None:
    assert _night(photos) == 0
    assert _night(photos, "source.where=starts_with(uri, 'kept/')") == 0
    assert _folders(photos) == ["kept"] * 3 + ["left"] * 3
    write_pictures(photos / "left2", 2, seed=5)
    assert _night(photos, "source.where=starts_with(uri, 'kept/')") == 0
    assert _folders(photos) == ["kept"] * 3 + ["left"] * 3


@pytest.mark.parametrize("command", ["nightly", "preview"])
def test_source_where_on_what_no_source_says_is_refused_before_anything_is_read(
    photos: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert _night(photos / "nowhere", "source.where=width > 3", command=command) == 2
    said = capsys.readouterr().err.strip()
    assert "source.where: there is no column width (columns: uri, size, original_caption, metadata)" in said
    assert len(said.splitlines()) == 1
    assert not (photos.parent / "corpus").exists()


def test_preview_shows_only_what_meets_source_where(photos: Path) -> None:
    page = photos.parent / "page.html"
    words = ("n=6", f"out={page}", "captioners=pocket")
    assert _night(photos, "source.where=starts_with(uri, 'kept/')", *words, command="preview") == 0
    assert "kept/" in page.read_text("utf-8")
    assert "left/" not in page.read_text("utf-8")
    assert _night(photos, "source.where=size > 1000000000", *words, command="preview") == 2
