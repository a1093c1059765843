"""Patches of the image towers, against transformers' own whole models."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from stages.checkpoints import Device, Dtype, ModelLoadError
from stages.image_encoder import ImageEncoder
from stages.preprocess import preprocessing
from tests.stages.tiny_encoders import PATCH, SIDE, photographs, save_encoder


def _encoder(folder: Path) -> ImageEncoder:
    return ImageEncoder(folder, preprocessing(folder), Dtype.AUTO, Device.CPU)


@pytest.mark.parametrize(("kind", "layer", "first"), [("clip", -2, 1), ("siglip", None, 0), ("vit", None, 1)])
def test_patches_are_what_the_tower_sees_of_each_patch(
    tmp_path: Path, kind: str, layer: int | None, first: int
) -> None:
    folder = save_encoder(tmp_path, kind)
    squares = [np.ascontiguousarray(picture[:SIDE, :SIDE]) for picture in list(photographs().values())[:2]]
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    whole = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        inputs = processor(images=squares, return_tensors="pt")
        output = getattr(whole, "vision_model", whole)(**inputs, output_hidden_states=True)
        expected = output.last_hidden_state if layer is None else output.hidden_states[layer]
        found = _encoder(folder).patches(squares)
    assert found.shape == (2, (SIDE // PATCH) ** 2, 64)
    assert torch.allclose(found, expected[:, first:].float(), atol=1e-4)


def test_patches_of_a_tower_with_any_number_of_them_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="siglip2"):
        _encoder(save_encoder(tmp_path, "siglip2")).patches([np.zeros((PATCH, PATCH, 3), np.uint8)])
