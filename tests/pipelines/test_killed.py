"""Commands killed at any moment: the same command again leaves what an undisturbed one leaves."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.corpus import Corpus
from pipelines.plan import planned_shards, read_planned
from stages.pocket.corpus import write_broken, write_pictures
from tests.pipelines.killing import (
    DATASETS,
    Kill,
    Scene,
    assert_same,
    draw_kills,
    kill_all,
    played,
    rows_of,
    run,
    said,
    shards_of,
    values_of,
)
from tests.pipelines.zygote import Zygote

PICTURES, BROKEN, SEED = 13, 2, 31
QUESTION = "how many objects are there?"
NIGHT = ("nightly", "cluster=local", "tracking=off", "index=exact", f"questions=[{QUESTION}]")
# Whole or absent: they say what can be found out again.
STATE_FILES = ("_dataset.json", "CURRENT", "meta.json", "metrics.json", "LOCK")


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as process:
        yield process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def first_night(zygote: Zygote, folder: Path) -> Scene:
    photos = folder / "photos"
    write_pictures(photos, PICTURES, SEED)
    write_broken(photos, BROKEN, SEED)
    return played(zygote, (*NIGHT, f"source.path={photos}"), None, folder / "first")


@pytest.fixture(scope="module")
def second_night(zygote: Zygote, folder: Path, first_night: Scene) -> Scene:
    """Over new, changed, moved and deleted pictures, and a copy."""
    photos = folder / "photos of the second night"
    shutil.copytree(folder / "photos", photos)
    write_pictures(photos / "new", 4, SEED + 1)
    changed, deleted, moved, copied = sorted(photos.glob("shapes/**/*.*"))[:4]
    changed.write_bytes(copied.read_bytes() + b"\n")
    deleted.unlink()
    moved.rename(photos / "new" / moved.name)
    shutil.copy(copied, photos / "new" / f"copy of {copied.name}")
    return played(zygote, (*NIGHT, f"source.path={photos}"), first_night.after, folder / "second")


@pytest.fixture(scope="module")
def compaction(zygote: Zygote, folder: Path, second_night: Scene) -> Scene:
    return played(zygote, ("compact",), second_night.after, folder / "compact")


def test_undisturbed_night_has_one_row_for_each_item(first_night: Scene) -> None:
    corpus = Corpus(str(first_night.after))
    planned = pa.concat_tables(read_planned(corpus, shard) for shard in planned_shards(corpus))
    assert len(planned) == PICTURES + BROKEN
    for dataset in DATASETS:
        assert rows_of(corpus, dataset)["image_id"].equals(planned["image_id"]), dataset


@pytest.mark.parametrize(
    "kills", [(1, 1, 1), pytest.param((16, 6, 8), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_first_night_killed_at_any_moment_and_run_again_is_as_undisturbed(
    zygote: Zygote, first_night: Scene, tmp_path: Path, kills: tuple[int, int, int]
) -> None:
    kill_all(zygote, first_night, draw_kills(first_night, *kills, seed=SEED), tmp_path)


@pytest.mark.parametrize(
    "kills", [(1, 1, 1), pytest.param((12, 4, 4), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_night_over_a_changed_folder_killed_at_any_moment_and_run_again_is_as_undisturbed(
    zygote: Zygote, second_night: Scene, tmp_path: Path, kills: tuple[int, int, int]
) -> None:
    kill_all(zygote, second_night, draw_kills(second_night, *kills, seed=SEED), tmp_path)


@pytest.mark.parametrize(
    "kills", [(3, 1, 0), pytest.param((24, 6, 4), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_compaction_killed_at_any_moment_and_run_again_is_as_undisturbed(
    zygote: Zygote, compaction: Scene, tmp_path: Path, kills: tuple[int, int, int]
) -> None:
    kill_all(zygote, compaction, draw_kills(compaction, *kills, seed=SEED), tmp_path)


@pytest.mark.parametrize("part", [0, 0.5], ids=["empty", "half"])
@pytest.mark.parametrize("name", STATE_FILES)
def test_night_over_torn_state_files_repairs_them(
    zygote: Zygote, second_night: Scene, tmp_path: Path, name: str, part: float
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(second_night.after, corpus)
    (corpus / "LOCK").write_bytes(b'{"host": "some", "pid": 1}')
    torn = list(corpus.rglob(name))
    assert torn
    for path in torn:
        os.truncate(path, int(path.stat().st_size * part))
    shards = shards_of(corpus)
    again = run(zygote, second_night.words, corpus, Kill())
    assert again.code == 0, said(corpus)
    assert shards_of(corpus) == shards
    assert_same(corpus, second_night.after)


@pytest.mark.parametrize("part", [0, 0.5], ids=["empty", "half"])
@pytest.mark.parametrize("folder_name", ["plan", "changes"])
def test_night_over_a_torn_journal_fails_in_one_line_that_names_it(
    zygote: Zygote, second_night: Scene, tmp_path: Path, folder_name: str, part: float
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(second_night.after, corpus)
    torn = sorted((corpus / folder_name).glob("*.parquet"))[-1]
    os.truncate(torn, int(torn.stat().st_size * part))
    before = values_of(corpus)
    assert run(zygote, second_night.words, corpus, Kill()).code == 1
    (line,) = said(corpus).splitlines()
    assert str(torn) in line
    assert values_of(corpus) == before
