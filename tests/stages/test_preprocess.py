import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from stages.checkpoints import ModelLoadError
from stages.preprocess import preprocessing
from stages.resize import Filter, Policy, ResizeConfig
from tests.stages.tiny_encoders import save_encoder

HALF = (0.5, 0.5, 0.5)


def folder_with(folder: Path, processor: dict[str, Any], model_type: str = "clip") -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.mark.parametrize("suffix", ["", "Pil", "Fast"])
def test_preprocessing_clip_is_shortest_edge_and_crop_for_every_suffix(tmp_path: Path, suffix: str) -> None:
    written = {"image_processor_type": f"CLIPImageProcessor{suffix}", "size": {"shortest_edge": 256}}
    steps = preprocessing(folder_with(tmp_path, written))
    assert steps.resize == ResizeConfig(Policy.SQUARE, size=256, crop=224, filter=Filter.BICUBIC)
    assert steps.mean == (0.48145466, 0.4578275, 0.40821073)
    assert steps.std == (0.26862954, 0.26130258, 0.27577711)
    assert steps.rescale == pytest.approx(1 / 255)


def test_preprocessing_old_feature_extractor_with_bare_numbers_is_understood(tmp_path: Path) -> None:
    written = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 336, "crop_size": 336, "resample": 3}
    steps = preprocessing(folder_with(tmp_path, written))
    assert steps.resize == ResizeConfig(Policy.SQUARE, size=336, crop=336, filter=Filter.BICUBIC)


def test_preprocessing_without_a_processor_name_follows_the_model_type(tmp_path: Path) -> None:
    steps = preprocessing(folder_with(tmp_path, {"size": 224}, model_type="vit"))
    assert steps.resize == ResizeConfig(Policy.SQUASH, height=224, width=224, filter=Filter.BILINEAR)
    assert (steps.mean, steps.std) == (HALF, HALF)


def test_preprocessing_siglip_squashes_to_height_and_width(tmp_path: Path) -> None:
    written = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 384, "width": 320}}
    steps = preprocessing(folder_with(tmp_path, written))
    assert steps.resize == ResizeConfig(Policy.SQUASH, height=384, width=320, filter=Filter.BICUBIC)


def test_preprocessing_siglip2_is_a_patch_budget_that_enlarges_small_pictures(tmp_path: Path) -> None:
    written = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 14, "max_num_patches": 100}
    steps = preprocessing(folder_with(tmp_path, written))
    assert steps.resize == ResizeConfig(
        Policy.PATCH_BUDGET, patch=14, max_patches=100, upscale=True, filter=Filter.BILINEAR
    )


def test_preprocessing_dinov2_is_shortest_edge_and_crop(tmp_path: Path) -> None:
    written = {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 224},
        "image_mean": [0.485, 0.456, 0.406],
    }
    steps = preprocessing(folder_with(tmp_path, written))
    assert steps.resize == ResizeConfig(Policy.SQUARE, size=256, crop=224, filter=Filter.BICUBIC)
    assert steps.mean == (0.485, 0.456, 0.406)


def test_preprocessing_nested_in_processor_config_comes_first(tmp_path: Path) -> None:
    folder_with(tmp_path, {"image_processor_type": "SiglipImageProcessor", "size": 64})
    nested = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": nested}))
    assert preprocessing(tmp_path).resize.height == 32


def test_preprocessing_steps_turned_off_are_identities(tmp_path: Path) -> None:
    written = {"image_processor_type": "ViTImageProcessor", "do_normalize": False, "do_rescale": False}
    steps = preprocessing(folder_with(tmp_path, written))
    assert (steps.mean, steps.std, steps.rescale) == ((0.0,) * 3, (1.0,) * 3, 1.0)


def test_preprocessing_resize_given_replaces_the_processors_own(tmp_path: Path) -> None:
    written = {"image_processor_type": "ViTImageProcessor", "resample": 1}
    own = ResizeConfig(Policy.PAD, size=224)
    assert preprocessing(folder_with(tmp_path, written), own).resize == own


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2", "vit"])
def test_preprocessing_levels_equal_those_of_the_processor_that_transformers_loads(
    tmp_path: Path, kind: str
) -> None:
    folder = save_encoder(tmp_path, kind)
    loaded = transformers.AutoImageProcessor.from_pretrained(folder)
    steps = preprocessing(folder)
    assert steps.mean == pytest.approx(loaded.image_mean)
    assert steps.std == pytest.approx(loaded.image_std)
    assert steps.rescale == pytest.approx(loaded.rescale_factor)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            {"image_processor_type": "BlipImageProcessor"},
            "BlipImageProcessor; supported are: CLIPImageProcessor",
        ),
        ({"resample": 1}, "resample must be 2"),
        ({"do_resize": False}, "do_resize is false"),
        ({"do_center_crop": False}, "pictures of many sizes"),
        ({"crop_size": {"height": 2, "width": 4}}, "must be a square, got 2 x 4"),
        ({"size": {"shortest_edge": 8, "longest_edge": 9}}, "only shortest_edge"),
        ({"size": {"height": 8, "width": 8}}, "do_center_crop needs"),
    ],
)
def test_preprocessing_that_cannot_be_followed_raises_one_line(
    tmp_path: Path, written: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message) as raised:
        preprocessing(folder_with(tmp_path, written))
    assert "\n" not in str(raised.value)


def test_preprocessing_without_any_processor_config_raises(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"preprocessor_config.json cannot be read"):
        preprocessing(tmp_path)
