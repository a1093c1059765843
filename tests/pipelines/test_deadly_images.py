"""Nights over images that crash, hang or balloon the decoder: they become rows, and nothing else changes."""

import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines import cli
from pipelines.config import load
from pipelines.corpus import Corpus
from pipelines.datasets import products
from pipelines.nightly import flow_of
from stages.embed import EmbedImages
from stages.pocket.corpus import write_pictures
from tests.stages import deadly_images as deadly

PICTURES, SEED, SHARD_ROWS = 60, 41, 16
DATASETS = ("items", "embeddings/pocket")
STATUSES = {
    "pictures/aa-segfault.jpg": "crashed",
    "pictures/zz-killed.jpg": "crashed",
    "exit.jpg": "crashed",
    "hang.jpg": "timeout",
    "bomb.png": "too_large",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    good = write_pictures(folder / "pictures", PICTURES, SEED)
    jpeg = next(one.path for one in good if one.path.suffix == ".jpg").read_bytes()
    tails = {"segfault": deadly.SEGFAULT, "killed": deadly.KILLED, "exit": deadly.EXIT, "hang": deadly.HANG}
    for uri in STATUSES:
        (kind,) = [name for name in (*tails, "bomb") if name in uri]
        (folder / uri).write_bytes(jpeg + tails[kind] if kind in tails else deadly.bomb())
    return folder


def _night(photos: Path, corpus: Path, *more: str) -> Corpus:
    models = ("captioner=none", "index=none", "tracking=off", "encoder.actors.count=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.SHARD_ROWS", SHARD_ROWS)
        assert cli.main(["nightly", f"source.path={photos}", f"corpus={corpus}", *models, *more]) == 0
    return Corpus(str(corpus))


@pytest.fixture(scope="module")
def sound(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A night with a decoder and a memory that are up to all of the images."""
    corpus = tmp_path_factory.mktemp("sound") / "corpus"
    return _night(photos, corpus, "cluster=local", "decode.how.memory_limit_mb=null")


def _read(corpus: Corpus, dataset: str) -> pa.Table:
    return pa.concat_tables(corpus.read_shard(dataset, shard) for shard in corpus.shards(dataset))


def test_decoding_in_its_process_loads_neither_models_nor_hydra(photos: Path, tmp_path: Path) -> None:
    config = load("nightly", [f"source.path={photos}", f"corpus={tmp_path}", "captioner=none"])
    flow = flow_of(config, Corpus(config.corpus), list(products(config).values()))
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(flow.steps[0].stages), stdout=subprocess.PIPE
    )
    modules = {name.partition(".")[0] for name in done.stdout.decode().split()}
    assert "cv2" in modules
    assert not modules & {"torch", "transformers", "hydra", "omegaconf", "ray", "mlflow"}


@pytest.mark.parametrize("cluster", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
def test_nightly_over_deadly_images_makes_them_rows_and_changes_no_other(
    cluster: str, photos: Path, sound: Corpus, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if cluster == "ray":
        request.getfixturevalue("ray_cluster")
    (tmp_path / "models").mkdir()
    embed = partial(deadly.witnessed, tmp_path / "models", EmbedImages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.nightly.DecodeImages", deadly.PoisonedDecode)
        patch.setattr("pipelines.datasets.EmbedImages", embed)
        how = ("decode.how.timeout_s=1", "decode.how.memory_limit_mb=100")
        corpus = _night(photos, tmp_path / "corpus", f"cluster={cluster}", *how)
    items = _read(corpus, "items")
    found = dict(zip(items["uri"].to_pylist(), items["status"].to_pylist(), strict=True))
    assert {uri: status for uri, status in found.items() if status != "ok"} == STATUSES
    assert len(found) == PICTURES + len(STATUSES)
    good = pc.equal(items["status"], "ok")
    for dataset in DATASETS:
        assert _read(corpus, dataset).filter(good).equals(_read(sound, dataset).filter(good)), dataset
    bad = _read(corpus, "embeddings/pocket").filter(pc.invert(good))
    assert bad["status"].to_pylist() == items.filter(pc.invert(good))["status"].to_pylist()
    assert len(list((tmp_path / "models").iterdir())) == 1
