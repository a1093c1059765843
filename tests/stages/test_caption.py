from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from stages.base import pack_views, view_column
from stages.caption import CaptionConfig, CaptionImages, caption_view
from stages.checkpoints import Device
from stages.generators.checks.faults import ChecksConfig
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.resize import Policy
from stages.schemas import CAPTION_COLUMN
from tests.stages.generators.tiny_models import photographs, save_model
from tests.stages.unmeasured import unmeasured

RUN = GeneratorRun(batch_size=2, device=Device.CPU, threads=1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CaptionConfig:
    folder: Path = save_model(tmp_path_factory.mktemp("captioner"), "deepseek_vl")
    return CaptionConfig(GeneratorConfig(str(folder), max_new_tokens=6))


@pytest.fixture(scope="module")
def captions(config: CaptionConfig) -> CaptionImages:
    return CaptionImages(config, RUN, "small")


def shard() -> pa.Table:
    """Five pictures, the third and the last item bad."""
    first, second, *rest = photographs()
    images = [first, second, None, *rest, None]
    bad = {2: ("truncated", "ends at byte 40"), 6: ("empty", "no bytes")}
    outcomes = [bad.get(row, ("ok", None)) for row in range(len(images))]
    return pa.table(
        {
            "image_id": pa.array(range(100, 107), pa.int64()),
            "status": [status for status, _ in outcomes],
            "error": pa.array([error for _, error in outcomes], pa.string()),
            view_column("small"): pack_views(images),
        }
    )


def test_captions_rows_keep_their_order_and_their_columns(captions: CaptionImages) -> None:
    made = captions(shard())
    assert made.drop_columns(["caption"]).equals(shard())
    assert made.schema.field("caption").type == CAPTION_COLUMN


def test_captions_every_picture_gets_the_text_it_gets_alone(captions: CaptionImages) -> None:
    made = unmeasured(captions(shard())["caption"])
    alone = [unmeasured(captions(shard().slice(row, 1))["caption"])[0] for row in range(7)]
    assert made == alone
    texts = [row["caption"] for row in made if row["status"] == "ok"]
    assert len(set(texts)) == 5


def test_captions_bad_item_has_null_text_and_its_own_status(captions: CaptionImages) -> None:
    made = captions(shard())["caption"].to_pylist()
    nothing = dict.fromkeys(field.name for field in CAPTION_COLUMN)
    assert made[2] == {**nothing, "status": "truncated", "error": "ends at byte 40"}
    assert made[6] == {**nothing, "status": "empty", "error": "no bytes"}
    assert [row["status"] for row in made if row["caption"] is not None] == ["ok"] * 5
    assert {row["error"] for row in made if row["caption"] is not None} == {None}


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_captions_split_shard_gives_the_same_rows(captions: CaptionImages, cut: int) -> None:
    parts = [captions(shard().slice(0, cut)), captions(shard().slice(cut))]
    assert unmeasured(pa.concat_tables(parts)) == unmeasured(captions(shard()))


def test_captions_empty_shard_gives_an_empty_column(captions: CaptionImages) -> None:
    made = captions(shard().slice(0, 0))
    assert made.num_rows == 0
    assert made.schema.field("caption").type == CAPTION_COLUMN


def test_captions_shard_without_a_good_item_gives_nulls(captions: CaptionImages) -> None:
    made = captions(shard().slice(6, 1))["caption"].to_pylist()
    assert [(row["caption"], row["status"]) for row in made] == [(None, "empty")]


def test_captions_another_prompt_gives_other_texts(captions: CaptionImages, config: CaptionConfig) -> None:
    other = CaptionImages(CaptionConfig(config.generator, "what is it?"), RUN, "small")
    assert not other(shard())["caption"].equals(captions(shard())["caption"])


def test_caption_view_fits_the_model(config: CaptionConfig) -> None:
    view = caption_view(config)
    assert (view.policy, view.size, view.upscale) == (Policy.FIT, 32, False)


def test_captions_text_with_a_fault_is_kept_beside_its_status(config: CaptionConfig) -> None:
    checks = ChecksConfig(refusal_patterns=("(?s).+",))
    made = CaptionImages(replace(config, checks=checks), RUN, "small")(shard())["caption"].to_pylist()
    unchecked = CaptionImages(config, RUN, "small")(shard())["caption"].to_pylist()
    assert [row["status"] for row in made] == ["refused"] * 2 + ["truncated"] + ["refused"] * 3 + ["empty"]
    assert [row["caption"] for row in made] == [row["caption"] for row in unchecked]
    assert all(row["error"] for row in made)
