"""One text, told while it is made."""

import json
import threading
from pathlib import Path

import pytest
import torch

from stages.checkpoints import Device
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.image_text_to_text import ImageTextToText
from stages.generators.protocol import GenerationError, Request, Result, Streams, Turn
from tests.stages.generators.counting import count_rows
from tests.stages.generators.tiny_models import KINDS, photographs, save_model
from tests.stages.poison import fault, on_white, white

ENDLESS = 100_000
"""Tokens; the text would take minutes."""


def generator(folder: Path, new_tokens: int = 24) -> ImageTextToText:
    run = GeneratorRun(device=Device.CPU, threads=1)
    return ImageTextToText(GeneratorConfig(str(folder), max_new_tokens=new_tokens), run)


def text_of(one: ImageTextToText, request: Request) -> str:
    (result,) = one.generate([request])
    assert isinstance(result, Result)
    return result.text


@pytest.mark.parametrize("kind", KINDS)
def test_stream_parts_are_the_text_of_generate(tmp_path: Path, kind: str) -> None:
    one = generator(save_model(tmp_path, kind))
    assert isinstance(one, Streams)
    for image in photographs()[:2]:
        request = Request(0, (image,), "what is it?")
        parts = list(one.stream(request))
        assert "".join(parts).strip() == text_of(one, request)


def test_stream_pocket_caption_comes_word_by_word() -> None:
    run = GeneratorRun(device=Device.CPU, threads=1)
    one = ImageTextToText(GeneratorConfig("pocket:captioner", max_new_tokens=40), run)
    request = Request(0, (photographs()[0],), "describe the image.")
    words = text_of(one, request).split()
    assert [part.strip() for part in one.stream(request) if part.strip()] == words
    assert len(words) > 5


def test_stream_conversation_encodes_the_picture_once(tmp_path: Path) -> None:
    one, image = generator(save_model(tmp_path, "llava")), photographs()[0]
    with count_rows("CLIPVisionModel") as counts:
        first = "".join(one.stream(Request(0, (image,), "what is it?")))
        turn = Turn("what is it?", first)
        list(one.stream(Request(0, (image,), "what color?", (turn,))))
    assert sum(rows for rows, _ in counts) == 1


@pytest.mark.parametrize("interrupted", [False, True])
def test_stream_consumer_that_leaves_ends_the_thread(tmp_path: Path, interrupted: bool) -> None:
    folder = save_model(tmp_path, "deepseek_vl", ends=(1,))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["text_config"]["max_position_embeddings"] = ENDLESS
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    before = threading.active_count()
    parts = generator(folder, ENDLESS).stream(Request(0, (photographs()[0],), "what is it?"))
    next(parts)
    assert threading.active_count() == before + 1
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            parts.throw(KeyboardInterrupt())
    parts.close()
    assert threading.active_count() == before


def test_stream_model_that_raises_says_so_in_one_line(tmp_path: Path) -> None:
    one, image = generator(save_model(tmp_path, "llava")), white(photographs()[0])
    with fault(torch.nn.Conv2d, raises=on_white), pytest.raises(GenerationError, match=r"^[^\n]*a white"):
        list(one.stream(Request(0, (image,), "what is it?")))
    assert "".join(one.stream(Request(0, (photographs()[1],), "what is it?")))
