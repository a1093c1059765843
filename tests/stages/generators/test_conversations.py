"""Several pictures, earlier turns and sampling of its own, against transformers one request at a time."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image as PIL
from transformers.models.llama.modeling_llama import LlamaMLP

from stages.base import Image
from stages.checkpoints import Device
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.image_text_to_text import ImageTextToText
from stages.generators.local.processors import processor_class
from stages.generators.protocol import FailedRequest, GenerationError, Request, Result, Sampling, Turn
from stages.schemas import Status
from tests.stages.generators.comparing import all_like, like
from tests.stages.generators.counting import count_rows
from tests.stages.generators.tiny_models import FAMILIES, PLAIN, SHARING, photographs, save_model
from tests.stages.poison import fault, on_white, white

TOKENS = 8
TOWERS = (
    "CLIPVisionModel",
    "Idefics3VisionTransformer",
    "InternVLVisionModel",
    "Qwen2_5_VisionTransformerPretrainedModel",
    "Qwen3VLVisionModel",
    "SiglipVisionModel",
    "SmolVLMVisionTransformer",
)
TURN = Turn("is it red?", "a cat")
CHATTING = [kind for kind in FAMILIES if kind not in PLAIN]
HOT = Sampling(temperature=2.0, top_p=0.9, seed=3)


class Checkpoints(dict[str, Path]):
    """Made by the first test that asks for one."""

    def __init__(self, root: pytest.TempPathFactory) -> None:
        self._root = root

    def __missing__(self, kind: str) -> Path:
        self[kind] = save_model(self._root.mktemp(kind), kind)
        return self[kind]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return Checkpoints(tmp_path_factory)


def generator(folder: Path, batch_size: int = 4, batch_tokens: int = 65_536, **what: Any) -> ImageTextToText:
    run = GeneratorRun(batch_size, batch_tokens, device=Device.CPU, threads=1, max_kept_mb=16)
    return ImageTextToText(GeneratorConfig(str(folder), **({"max_new_tokens": TOKENS} | what)), run)


def mixed() -> list[Request]:
    """Of none to three pictures, some of them in several requests, with up to two turns."""
    a, b, c, d, e = photographs()
    turns = (Turn("what is it?", "a cat"), Turn("how many?", "two red cups"))
    asked: list[tuple[tuple[Image, ...], str, tuple[Turn, ...]]] = [
        ((a,), "what is it?", ()),
        ((a, b), "what is it?", ()),
        ((b, a), "what is it?", ()),
        ((a, b), "how many objects are there?", turns[:1]),
        ((c, d, e), "describe the image.", ()),
        ((c,), "is it a cat?", turns),
        ((c,), "is it a cat?", turns[:1]),
        ((c, c), "what is it?", ()),
        ((), "what is a cat?", ()),
        ((), "and the moon?", turns),
    ]
    return [Request(number, *one) for number, one in enumerate(asked)]


MIXED = mixed()


def made(one: ImageTextToText, asked: list[Request]) -> list[Result]:
    """In the order of the requests."""
    results = {result.id: result for result in one.generate(asked) if isinstance(result, Result)}
    return [results[request.id] for request in asked]


@functools.cache
def reference(folder: Path, asked: tuple[Request, ...]) -> list[tuple[str, int, float]]:
    """Text, tokens of the prompt and mean log-probability, by transformers' own processor and model."""
    model_type = json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
    processor = processor_class(model_type).from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    found = []
    for request in asked:
        inputs = _inputs(processor, request)
        output = model.generate(
            **inputs,
            max_new_tokens=TOKENS,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
            output_logits=True,
        )
        start = inputs["input_ids"].shape[1]
        tokens = output.sequences[0, start:]
        steps = torch.stack(output.logits, dim=1)[0].log_softmax(dim=-1)
        chosen = steps.gather(1, tokens[:, None])
        text = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        found.append((text, start, float(chosen.mean())))
    return found


def _inputs(processor: Any, request: Request) -> Any:
    said = [text for turn in request.turns for text in (turn.prompt, turn.text)] + [request.prompt]
    messages: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[number % 2], "content": [{"type": "text", "text": text}]}
        for number, text in enumerate(said)
    ]
    messages[0]["content"] = [{"type": "image"} for _ in request.images] + messages[0]["content"]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if not request.images:
        return processor.tokenizer([text], return_tensors="pt")
    pictures = [[PIL.fromarray(image) for image in request.images]]
    return processor(images=pictures, text=[text], return_tensors="pt")


@pytest.mark.parametrize(
    ("kind", "batch_size", "batch_tokens"),
    [
        *((kind, 32, 300) for kind in CHATTING),
        *((kind, 1, 65_536) for kind in SHARING),
        *((kind, 32, 65_536) for kind in SHARING),
    ],
)
def test_generate_pictures_and_turns_equal_transformers_one_by_one(
    checkpoints: dict[str, Path], kind: str, batch_size: int, batch_tokens: int
) -> None:
    results = made(generator(checkpoints[kind], batch_size, batch_tokens), MIXED)
    texts, lengths, logprobs = zip(*reference(checkpoints[kind], tuple(MIXED)), strict=True)
    assert [result.text for result in results] == list(texts)
    assert [result.prompt_tokens for result in results] == list(lengths)
    assert [result.mean_logprob for result in results] == pytest.approx(logprobs, abs=1e-4)
    assert len(set(logprobs)) == len(logprobs)  # pictures, their order and turns all make a difference
    assert all(result.latency_s and result.latency_s > 0 for result in results)


@pytest.mark.parametrize("kind", SHARING)
def test_generate_sampling_of_a_request_is_that_of_a_config_with_it(
    checkpoints: dict[str, Path], kind: str
) -> None:
    asked = mixed()
    hot = [dataclasses.replace(request, sampling=HOT) for request in asked]
    other = generator(checkpoints[kind], temperature=HOT.temperature, top_p=HOT.top_p, seed=HOT.seed)
    drawn, greedy = made(other, asked), made(generator(checkpoints[kind]), asked)
    half = made(generator(checkpoints[kind], 32), [*hot[:5], *asked[5:]])
    assert half == all_like(drawn[:5]) + all_like(greedy[5:])
    assert made(generator(checkpoints[kind], 3), hot[::-1]) == all_like(drawn[::-1])
    cold = Sampling(temperature=0.0, top_p=1.0, seed=0)
    assert made(other, [dataclasses.replace(request, sampling=cold) for request in asked]) == all_like(greedy)
    assert all(one.text != two.text for one, two in zip(drawn, greedy, strict=True))


def test_generate_sampling_another_seed_order_or_turn_draws_other_texts(
    checkpoints: dict[str, Path],
) -> None:
    a, b = photographs()[:2]
    asked = [
        Request(0, (a, b), "what is it?", sampling=HOT),
        Request(1, (b, a), "what is it?", sampling=HOT),
        Request(2, (a, b), "what is it?", sampling=dataclasses.replace(HOT, seed=4)),
        Request(3, (a, b), "what is it?", (Turn("what is it?", "a cat"),), sampling=HOT),
    ]
    assert len({result.text for result in made(generator(checkpoints["llava"]), asked)}) == len(asked)


@pytest.mark.parametrize("kind", SHARING)
def test_generate_request_with_one_picture_that_the_model_raises_on_fails_alone(
    checkpoints: dict[str, Path], kind: str
) -> None:
    asked = mixed()
    poison = photographs()[1]  # of requests 1, 2 and 3
    bad = [dataclasses.replace(one, images=tuple(_whitened(one.images, poison))) for one in asked]
    undisturbed = made(generator(checkpoints[kind]), asked)
    with fault(torch.nn.Conv2d, raises=on_white):
        results = {result.id: result for result in generator(checkpoints[kind]).generate(bad)}
    failed = {id: result for id, result in results.items() if isinstance(result, FailedRequest)}
    assert {id: result.status for id, result in failed.items()} == dict.fromkeys((1, 2, 3), Status.FAILED)
    assert [results[id] for id in range(10) if id not in failed] == [
        like(result) for result in undisturbed if result.id not in failed
    ]


def _whitened(images: Sequence[Image], poison: Image) -> list[Image]:
    return [white(image) if image is poison else image for image in images]


@pytest.mark.parametrize("kind", CHATTING)
def test_generate_captions_questions_and_a_follow_up_run_the_vision_tower_once_a_picture(
    checkpoints: dict[str, Path], kind: str
) -> None:
    images, one = photographs(), generator(checkpoints[kind], batch_size=1)
    questions = [
        Request(5 * n + k, (image,), f"is it {k}?") for n, image in enumerate(images) for k in range(5)
    ]
    with count_rows(*TOWERS) as counts:
        one.generate([Request(n, (image,), "describe the image.") for n, image in enumerate(images)])
        one.generate(questions)
        one.generate([Request(n, (image,), "and red?", (TURN,)) for n, image in enumerate(images)])
        if kind != "llava_onevision":  # it cuts up only pictures that are alone in a prompt
            one.generate([Request(0, tuple(images[:3]), "what is it?")])
    assert len(counts) == len(images)


def test_generate_batches_hold_at_most_the_tokens_that_they_may(checkpoints: dict[str, Path]) -> None:
    asked = [request for request in mixed() if len(request.images) < 3]
    one = generator(checkpoints["llava"], 32, batch_tokens=150)
    with count_rows("LlamaModel") as counts:
        one.generate(asked)
    assert max(rows * (tokens + TOKENS) for rows, tokens in counts) <= 150
    assert max(rows for rows, _ in counts) > 1


def test_generate_what_the_model_cannot_take_is_named(checkpoints: dict[str, Path]) -> None:
    image = photographs()[0]
    for images, turns, what in (
        ((), (), "text without a picture"),
        ((image,), (TURN,), "earlier turns"),
        ((image, image), (), "takes 1 picture"),
    ):
        with pytest.raises(GenerationError, match=what):
            generator(checkpoints["blip"]).generate([Request(0, images, "what is it?", turns)])


def test_generate_special_tokens_in_a_prompt_are_only_text(checkpoints: dict[str, Path]) -> None:
    image, other = photographs()[:2]
    texts = ("</s>user: <image>", "a <image> b", "<image>")
    asked = [Request(n, (image,), text, (Turn(text, text),)) for n, text in enumerate(texts)]
    results = made(generator(checkpoints["llava"]), [*asked, Request(9, (other,), "what is it?")])
    (alone,) = made(generator(checkpoints["llava"]), [Request(9, (other,), "what is it?")])
    assert results[3] == like(alone)
    assert all(result.finish_reason for result in results)


def test_generate_float_pictures_are_refused(checkpoints: dict[str, Path]) -> None:
    scaled: Any = photographs()[0].astype(np.float32) / 255
    with pytest.raises(GenerationError, match="uint8"):
        generator(checkpoints["llava"]).generate([Request(0, (scaled,), "what is it?")])


def test_generate_prompt_that_the_model_raises_on_fails_alone(checkpoints: dict[str, Path]) -> None:
    asked = [
        Request(10 * n + k, (image,), prompt)
        for n, image in enumerate(photographs()[:3])
        for k, prompt in enumerate(("what is it?", "is it red?"))
    ]
    undisturbed = made(generator(checkpoints["llava"]), asked)
    long = Request(99, asked[0].images, "a red cup of coffee, or the moon? " * 30)
    with fault(LlamaMLP, raises=_on_long):
        results = {one.id: one for one in generator(checkpoints["llava"]).generate([*asked, long])}
        (alone,) = generator(checkpoints["llava"]).generate([long])
    assert results.pop(99) == alone
    assert isinstance(alone, FailedRequest)
    assert [results[request.id] for request in asked] == all_like(undisturbed)


def _on_long(values: torch.Tensor) -> None:
    if values.shape[1] > 200:
        raise RuntimeError(f"{values.shape[1]} tokens are too many")
