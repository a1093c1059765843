"""Which encoded pictures are kept."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.base import Image
from stages.checkpoints import Device
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.loading import load_model
from stages.generators.local.pictures import Key, PictureEncoder, picture_key
from stages.generators.local.prompts import PromptRenderer
from tests.stages.generators.counting import count_rows
from tests.stages.generators.tiny_models import PICTURE_TOKENS, save_model

WIDTH = 32
IMAGES: dict[Key, Image] = {
    picture_key(image): image for image in (np.full((32, 32, 3), value, np.uint8) for value in range(6))
}
KEYS = list(IMAGES)


@pytest.fixture
def encoder(tmp_path: Path) -> PictureEncoder:
    """One that keeps three pictures."""
    config = GeneratorConfig(str(save_model(tmp_path, "llava")))
    loaded = load_model(config, GeneratorRun(device=Device.CPU, threads=1))
    with torch.inference_mode():
        return PictureEncoder(loaded, PromptRenderer(loaded.processor), 3 * PICTURE_TOKENS * WIDTH * 4)


def encoded(encoder: PictureEncoder, *numbers: int) -> int:
    """How many of these pictures pass through the vision tower for a call about them."""
    keys = [KEYS[number] for number in numbers]
    encoder.want(keys)
    with count_rows("CLIPVisionModel") as counts, torch.inference_mode():
        encoder.encode({key: IMAGES[key] for key in keys}, limit=2)
    assert max((rows for rows, _ in counts), default=0) <= 2
    return sum(rows for rows, _ in counts)


def test_picture_encoder_keeps_pictures_over_calls_about_others(encoder: PictureEncoder) -> None:
    assert [encoded(encoder, 0, 1), encoded(encoder, 2), encoded(encoder, 0, 1)] == [2, 1, 0]


def test_picture_encoder_without_room_forgets_the_oldest_first(encoder: PictureEncoder) -> None:
    encoded(encoder, 0, 1, 2)
    encoded(encoder, 0)  # asked for again, so it is not the oldest
    assert encoded(encoder, 3) == 1
    assert encoded(encoder, 0, 2, 3) == 0
    assert encoded(encoder, 1) == 1


def test_picture_encoder_more_pictures_than_fit_keeps_the_first(encoder: PictureEncoder) -> None:
    assert encoded(encoder, *range(5)) == 5
    assert encoded(encoder, *range(5)) == 2
