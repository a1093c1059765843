"""Answers by classification, against transformers' own model, one question at a time."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image as PIL

from stages.base import Image
from stages.checkpoints import Device, ModelLoadError
from stages.generators.backends import generator_view, load_generator
from stages.generators.config import Backend, GeneratorConfig, GeneratorRun
from stages.generators.protocol import FailedRequest, GenerationError, Request, Result, Turn
from stages.schemas import Status
from tests.stages.generators.tiny_models import SIDE, photographs, save_model

QUESTIONS = ("is it red?", "what is it?", "how many objects are there, a cat?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("vilt"), "vilt")


def answered(folder: Path, requests: Sequence[Request], batch_size: int = 32) -> list[Result | FailedRequest]:
    config = GeneratorConfig(str(folder), Backend.VILT)
    generator = load_generator(config, GeneratorRun(batch_size=batch_size, device=Device.CPU, threads=1))
    return sorted(generator.generate(requests), key=lambda one: one.id)


def asked(images: Sequence[Image]) -> list[Request]:
    pairs = [(image, question) for image in images for question in QUESTIONS]
    return [Request(number, (image,), question) for number, (image, question) in enumerate(pairs)]


@pytest.mark.parametrize("batch_size", [4, 32])
def test_vilt_questions_of_unlike_length_about_unlike_pictures_equal_transformers_one_by_one(
    folder: Path, batch_size: int
) -> None:
    requests = asked(photographs())
    results = answered(folder, requests, batch_size)
    processor = transformers.ViltProcessor.from_pretrained(folder)
    model = transformers.ViltForQuestionAnswering.from_pretrained(folder).eval()
    for request, result in zip(requests, results, strict=True):
        picture = PIL.fromarray(request.images[0])
        inputs = processor(images=picture, text=request.prompt, return_tensors="pt")
        with torch.inference_mode():
            chances = model(**inputs).logits[0].sigmoid()
        assert isinstance(result, Result)
        assert result.text == model.config.id2label[int(chances.argmax())]
        assert result.mean_logprob == pytest.approx(float(chances.max().log()), abs=1e-4)
        assert result.prompt_tokens == inputs["input_ids"].shape[1]
    told = [one for one in results if isinstance(one, Result)]
    assert len({one.text for one in told}) > 1
    assert len({one.mean_logprob for one in told}) > len(QUESTIONS)  # the pictures make a difference


def test_vilt_picture_of_more_patches_than_the_config_says_has_the_same_answer_again(
    folder: Path, tmp_path: Path
) -> None:
    limited = save_model(tmp_path / "limited", "vilt")
    config = json.loads((limited / "config.json").read_text("utf-8"))
    (limited / "config.json").write_text(json.dumps(config | {"max_image_length": 4}), "utf-8")
    requests = asked(photographs())

    def told(results: Sequence[Result | FailedRequest]) -> list[tuple[str, float]]:
        return [(one.text, round(one.mean_logprob or 0, 3)) for one in results if isinstance(one, Result)]

    assert told(answered(limited, requests)) == told(answered(folder, requests))


def test_vilt_question_longer_than_the_model_fails_alone(folder: Path) -> None:
    short = Request(0, (photographs()[0],), "what is it?")
    long = Request(1, (photographs()[0],), "what is it? " * 30)
    first, second = answered(folder, [short, long])
    assert isinstance(first, Result)
    assert isinstance(second, FailedRequest)
    assert second.status is Status.FAILED


@pytest.mark.parametrize(
    "changes",
    [
        {"images": ()},
        {"images": (photographs()[0], photographs()[1])},
        {"turns": (Turn("what is it?", "a cat"),)},
        {"schema": "{}"},
        {"images": (photographs()[0].astype(np.float32) / 255,)},
    ],
    ids=["no picture", "two pictures", "turns", "schema", "floats"],
)
def test_vilt_what_it_cannot_do_is_refused_in_one_line(folder: Path, changes: dict[str, Any]) -> None:
    request = Request(**{"id": 0, "images": (photographs()[0],), "prompt": "what is it?", **changes})
    with pytest.raises(GenerationError, match=r"^[^\n]+$"):
        answered(folder, [request])


def test_vilt_temperature_is_refused(folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="temperature"):
        load_generator(GeneratorConfig(str(folder), Backend.VILT, temperature=0.5), GeneratorRun())


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, "id2label"), ({"model_type": "blip"}, "blip")],
)
def test_vilt_checkpoint_without_answers_or_of_another_type_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    folder = save_model(tmp_path / "model", "vilt")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), "utf-8")
    with pytest.raises(ModelLoadError, match=named):
        load_generator(GeneratorConfig(str(folder), Backend.VILT), GeneratorRun(device=Device.CPU))


def test_vilt_view_is_as_large_as_its_processor_uses(folder: Path) -> None:
    assert generator_view(GeneratorConfig(str(folder), Backend.VILT)).size == 54  # 32 * 1333 / 800
    assert SIDE == 32
