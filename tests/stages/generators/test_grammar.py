"""Answers held to a JSON schema, by models that never learned any and by one that did."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from stages.base import Image
from stages.checkpoints import Device
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.image_text_to_text import ImageTextToText
from stages.generators.protocol import FinishReason, GenerationError, Request, Result, Sampling
from stages.pocket import language
from stages.pocket.drawing import draw
from stages.pocket.scenes import COLORS, Scene, Sign, sample_distinct
from tests.stages.generators.comparing import all_like
from tests.stages.generators.tiny_models import KINDS, photographs, save_model

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["photo", "drawing"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
        "colors": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2},
        "note": {"type": "string", "maxLength": 6},
    },
    "required": ["kind", "count", "colors", "note"],
    "additionalProperties": False,
}
SIGN: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"const": "sign"},
        "color": {"enum": list(COLORS)},
        "text": {"type": "string", "pattern": "^[0-9]{2,3}$"},
    },
    "required": ["kind", "color", "text"],
    "additionalProperties": False,
}


def generator(model: str, batch_size: int = 32, **what: Any) -> ImageTextToText:
    run = GeneratorRun(batch_size=batch_size, device=Device.CPU, threads=1)
    return ImageTextToText(GeneratorConfig(model, max_new_tokens=160, **what), run)


def asked(schema: dict[str, Any] | None, prompt: str = "what is it?") -> list[Request]:
    text = None if schema is None else json.dumps(schema)
    return [Request(n, (image,), prompt, schema=text) for n, image in enumerate(photographs())]


def made(one: ImageTextToText, requests: list[Request]) -> list[Result]:
    results = {result.id: result for result in one.generate(requests) if isinstance(result, Result)}
    return [results[request.id] for request in requests]


def is_valid(text: str, schema: dict[str, Any]) -> bool:
    try:
        jsonschema.validate(json.loads(text), schema)
    except (json.JSONDecodeError, jsonschema.ValidationError):
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_generate_schema_untrained_model_is_valid_only_with_it(
    tmp_path: Path, kind: str, temperature: float
) -> None:
    one = generator(str(save_model(tmp_path, kind)), temperature=temperature)
    held, free = made(one, asked(SCHEMA)), made(one, asked(None))
    assert [is_valid(result.text, SCHEMA) for result in held] == [True] * len(held)
    assert {result.finish_reason for result in held} == {FinishReason.STOP}
    assert not any(is_valid(result.text, SCHEMA) for result in free)
    assert len({result.text for result in held}) > 1


def test_generate_schema_rows_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    folder = str(save_model(tmp_path, "llava"))
    hot = Sampling(temperature=2.0, top_p=0.95, seed=1)
    mixed = [
        *asked(SCHEMA)[:2],
        *asked(None)[2:4],
        dataclasses.replace(asked(SIGN)[4], sampling=hot),
        dataclasses.replace(asked(SCHEMA)[0], id=5, prompt="a red cup of coffee?"),
    ]
    whole = made(generator(folder), mixed)
    apart = [made(generator(folder), [request])[0] for request in mixed]
    assert whole == all_like(apart)
    assert made(generator(folder, batch_size=2), mixed[::-1]) == all_like(apart[::-1])
    assert [is_valid(result.text, SIGN) for result in whole] == [n == 4 for n in range(6)]


def test_generate_schema_likelihoods_are_those_of_the_model_itself(tmp_path: Path) -> None:
    one = generator(str(save_model(tmp_path, "llava")))
    held, free = made(one, asked(SCHEMA)), made(one, asked(None))
    for forced, wanted in zip(held, free, strict=True):
        assert forced.mean_logprob is not None
        assert wanted.mean_logprob is not None
        assert forced.mean_logprob < wanted.mean_logprob < 0


def test_generate_schema_trained_model_says_what_it_says_without() -> None:
    signs = _signs(12)
    requests = [Request(n, (image,), language.JSON_PROMPT) for n, (_, image) in enumerate(signs)]
    held = [dataclasses.replace(request, schema=json.dumps(SIGN)) for request in requests]
    one = generator("pocket:captioner")
    free, texts = made(one, requests), [result.text for result in made(one, held)]
    assert all(is_valid(text, SIGN) for text in texts)
    assert all(a == b.text for a, b in zip(texts, free, strict=True) if is_valid(b.text, SIGN))
    right = sum(text == language.to_json(scene) for text, (scene, _) in zip(texts, signs, strict=True))
    assert right >= 9


def _signs(count: int) -> list[tuple[Scene, Image]]:
    rng = np.random.default_rng(0)
    scenes = [scene for scene in sample_distinct(rng, "held_out", 80) if isinstance(scene, Sign)]
    return [(scene, draw(scene, rng, 96)) for scene in scenes[:count]]


@pytest.mark.parametrize("schema", ['{"type": "strin"}', "not json", '{"type": "string", "format": "odd"}'])
def test_generate_schema_that_is_none_is_refused_in_one_line(tmp_path: Path, schema: str) -> None:
    one = generator(str(save_model(tmp_path, "llava")))
    with pytest.raises(GenerationError, match=r"^[^\n]*schema[^\n]*$"):
        one.generate([Request(0, (photographs()[0],), "what is it?", schema=schema)])


def test_generate_schema_text_that_is_cut_says_so(tmp_path: Path) -> None:
    long = {"type": "string", "minLength": 200}
    request = Request(0, (photographs()[0],), "what is it?", schema=json.dumps(long))
    (result,) = made(generator(str(save_model(tmp_path, "llava"))), [request])
    assert result.finish_reason is FinishReason.LENGTH
    assert result.completion_tokens == 160
