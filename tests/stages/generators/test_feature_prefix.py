"""A text model that sees through a projector: what it says, and which folders are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.base import Image
from stages.checkpoints import ModelLoadError
from stages.generators.backends import generator_identity, generator_view, load_generator
from stages.generators.config import Backend, GeneratorConfig, GeneratorRun
from stages.generators.fusion.model import FUSION, PROJECTOR
from stages.generators.protocol import FailedRequest, Request, Result, Turn, generate_matched
from stages.pocket import checkpoint, language, scenes
from stages.pocket.drawing import draw
from stages.resize import view
from stages.schemas import Status

CONFIG = GeneratorConfig("pocket:fusion", backend=Backend.FEATURE_PREFIX, max_new_tokens=160)
RUN = GeneratorRun(batch_size=32, threads=1)


@cache
def _asked() -> tuple[list[Request], list[str]]:
    """Every question about some held-out pictures, and the right answers."""
    rng = np.random.default_rng(31)
    requests: list[Request] = []
    answers: list[str] = []
    for scene in scenes.sample_distinct(rng, "held_out", 6):
        picture = _view(draw(scene, rng, 256))
        for question in language.questions(scene, rng):
            requests.append(Request(len(requests), (picture,), question.text))
            answers.append(question.answer)
    return requests, answers


def _view(picture: Image) -> Image:
    return view(picture, picture.shape[:2], generator_view(CONFIG))


def _share(config: GeneratorConfig) -> float:
    requests, answers = _asked()
    results = generate_matched(load_generator(config, RUN), requests)
    told = [one.text for one in results if isinstance(one, Result)]
    return float(np.mean([one == right for one, right in zip(told, answers, strict=True)]))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(checkpoint("fusion"), tmp_path / "fusion")
    return tmp_path / "fusion"


def test_feature_prefix_held_out_pictures_are_answered_and_only_through_the_trained_projector(
    copied: Path,
) -> None:
    torch.manual_seed(0)
    noise = {name: torch.randn_like(value.float()) * 0.05 for name, value in _projector(copied).items()}
    save_file(noise, copied / PROJECTOR)
    assert _share(CONFIG) >= 0.75
    assert _share(replace(CONFIG, model=str(copied))) <= 0.5


def _projector(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(folder / PROJECTOR)
    return weights


def test_feature_prefix_thinking_is_apart_from_the_answer() -> None:
    (result,) = generate_matched(load_generator(CONFIG, RUN), _asked()[0][:1])
    assert isinstance(result, Result)
    assert result.thinking
    assert "think>" not in result.thinking + result.text
    assert result.prompt_tokens
    assert result.prompt_tokens > 24  # the words that stand for the picture are counted


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_feature_prefix_answers_do_not_depend_on_the_batch(temperature: float) -> None:
    generator = load_generator(replace(CONFIG, temperature=temperature), RUN)
    some = _asked()[0][::5]
    together = generate_matched(generator, some)
    alone = [generate_matched(generator, [request])[0] for request in some]
    assert [_said(one) for one in together] == [_said(one) for one in alone]


def _said(result: Result | FailedRequest) -> tuple[str, str | None]:
    assert isinstance(result, Result)
    return result.text, result.thinking


def test_feature_prefix_prompt_beyond_the_context_fails_alone() -> None:
    good, other = _asked()[0][0], _asked()[0][-1]
    results = generate_matched(load_generator(CONFIG, RUN), [replace(good, prompt="why? " * 400), other])
    assert getattr(results[0], "status", None) is Status.FAILED
    assert isinstance(results[1], Result)


def test_feature_prefix_takes_several_pictures_and_earlier_turns() -> None:
    one, other = _asked()[0][0], _asked()[0][-1]
    several = replace(one, images=(*one.images, *other.images), turns=(Turn("what is it?", "a sign"),))
    results = generate_matched(load_generator(CONFIG, RUN), [replace(several, id=0), replace(one, id=1)])
    tokens = [result.prompt_tokens for result in results if isinstance(result, Result)]
    assert len(tokens) == 2
    assert (tokens[0] or 0) >= (tokens[1] or 0) + 24


def test_generator_identity_is_the_same_wherever_the_folder_lies_and_other_for_other_weights(
    copied: Path,
) -> None:
    here, there = (
        generator_identity(replace(CONFIG, model=model)) for model in ("pocket:fusion", str(copied))
    )
    assert here == there
    changed = {name: value + 1 for name, value in _projector(copied).items()}
    save_file(changed, copied / PROJECTOR)
    assert generator_identity(replace(CONFIG, model=str(copied))) != here


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"llm_weights": "0" * 64}, "other weights of its text model"),
        ({"vision_weights": "0" * 64}, "other weights of its vision tower"),
        ({"version": 2}, "version 2"),
        ({"reads": "words"}, "words"),
        ({"hidden": 7}, "projector.safetensors"),
        ({"more": 1}, "more"),
    ],
)
def test_feature_prefix_folder_that_does_not_fit_is_refused(
    copied: Path, change: dict[str, object], named: str
) -> None:
    stored = json.loads((copied / FUSION).read_text())
    (copied / FUSION).write_text(json.dumps(stored | change))
    with pytest.raises(ModelLoadError, match=named) as caught:
        load_generator(replace(CONFIG, model=str(copied)), RUN)
    assert "\n" not in str(caught.value)


def test_feature_prefix_projector_with_a_tensor_missing_is_refused(copied: Path) -> None:
    weights = _projector(copied)
    del weights["second.bias"]
    save_file(weights, copied / PROJECTOR)
    with pytest.raises(ModelLoadError, match=r"second\.bias"):
        load_generator(replace(CONFIG, model=str(copied)), RUN)
