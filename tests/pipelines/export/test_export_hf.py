"""Parquet files that the `datasets` library loads by itself, with images."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines import cli
from tests.pipelines.export.exported_corpus import Made


def test_export_hf_loads_with_datasets_as_images_captions_and_metadata(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "out"
    words = [f"corpus={made.corpus.location}", f"to={to}", "format=hf", "rows_per_file=7", "answers=a"]
    assert cli.main(["export", *words]) == 0
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        "parquet", data_files=str(to / "*.parquet"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded["image_id"][:] == list(made.good)
    assert loaded["caption"][:] == [row["caption"] for row in made.good.values()]
    assert loaded["score"][:] == [item / 2 for item in made.good]
    assert loaded["metadata_key" if "metadata_key" in loaded.features else "key"][0] == "k0"
    for row, wanted in zip(loaded, made.good.values(), strict=True):
        assert np.array_equal(np.asarray(row["image"]), np.asarray(Image.open(io.BytesIO(wanted["bytes"]))))
        assert [one["answer"] for one in row["answers"]] == [f"{row['image_id']} 0", f"{row['image_id']} 1"]


def test_export_hf_writes_small_row_groups_and_the_bytes_as_they_are(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.export.hf._GROUP_ROWS", 5)
    to = tmp_path / "out"
    assert cli.main(["export", f"corpus={made.corpus.location}", f"to={to}", "format=hf"]) == 0
    file = pq.ParquetFile(to / "train-00000.parquet")
    assert [file.metadata.row_group(one).num_rows for one in range(file.num_row_groups)] == [5, 5, 5, 1]
    images = file.read(["image"])["image"].to_pylist()
    assert images == [{"bytes": row["bytes"], "path": row["uri"]} for row in made.good.values()]
