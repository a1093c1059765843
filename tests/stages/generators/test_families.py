"""Every family of models: as in transformers one by one, with several pictures, and what it must not load."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image as PIL
from transformers.processing_utils import ProcessorMixin

from stages.checkpoints import Device
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.image_text_to_text import ImageTextToText
from stages.generators.local.loading import LoadedModel, load_model
from stages.generators.local.processors import processor_class
from stages.generators.protocol import (
    FailedRequest,
    FinishReason,
    GenerationError,
    Request,
    Result,
    Sampling,
    Turn,
)
from tests.stages.generators.tiny_families import OFFICIAL
from tests.stages.generators.tiny_models import FAMILIES, KINDS, PLAIN, photographs, save_model

QUESTIONS = ("what is it?", "how many objects are there? a red cup of coffee, or the moon?")
TASKS = ("<CAPTION>", "<DETAILED_CAPTION>")
TOKENS = 8
RUN = GeneratorRun(batch_size=32, device=Device.CPU, threads=1)


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    saved: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in saved:
            saved[kind] = save_model(tmp_path_factory.mktemp(kind), kind)
        return saved[kind]

    return folder


def load(folder: Path) -> LoadedModel:
    return load_model(GeneratorConfig(str(folder), max_new_tokens=TOKENS), RUN)


def copied(folder: Path, to: Path, name: str, **changes: Any) -> Path:
    """The checkpoint with other values in one of its JSON files; those of a section are merged into it."""
    shutil.copytree(folder, to)
    content = json.loads((to / name).read_text("utf-8"))
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    (to / name).write_text(json.dumps(content), "utf-8")
    return to


def rendered(processor: Any, prompt: str, pictures: int = 1, turns: tuple[Turn, ...] = ()) -> str:
    if not processor.chat_template:
        return prompt
    texts = [text for turn in turns for text in (turn.prompt, turn.text)] + [prompt]
    said: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[number % 2], "content": [{"type": "text", "text": text}]}
        for number, text in enumerate(texts)
    ]
    said[0]["content"] = [*({"type": "image"} for _ in range(pictures)), *said[0]["content"]]
    return str(processor.apply_chat_template(said, tokenize=False, add_generation_prompt=True))


def answered(folder: Path, asked: list[Request]) -> list[str]:
    config = GeneratorConfig(str(folder), max_new_tokens=TOKENS)
    made = [one for one in ImageTextToText(config, RUN).generate(asked) if isinstance(one, Result)]
    return [one.text for one in sorted(made, key=lambda one: one.id)]


def one_by_one(folder: Path, kind: str, asked: list[Request]) -> list[str]:
    """What transformers itself writes for each request alone, by the class of the checkpoint."""
    model_type = json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
    processor = processor_class(model_type).from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    texts = []
    for request in asked:
        pictures = {"images": [[PIL.fromarray(image) for image in request.images]]} if request.images else {}
        text = rendered(processor, request.prompt, len(request.images), request.turns)
        inputs = processor(text=[text], return_tensors="pt", **pictures)
        model.generation_config.update(num_beams=1, early_stopping=False, forced_eos_token_id=None)
        output = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)[0]
        start = 1 if kind == "florence2" else inputs["input_ids"].shape[1] - (kind == "blip")
        texts.append(processor.tokenizer.decode(output[start:], skip_special_tokens=True).strip())
    return texts


@pytest.mark.parametrize("kind", FAMILIES)
def test_generate_family_in_one_batch_equals_transformers_one_by_one(
    families: Callable[[str], Path], kind: str
) -> None:
    prompts = TASKS if kind == "florence2" else QUESTIONS
    pairs = [(image, prompt) for image in photographs() for prompt in prompts]
    asked = [Request(number, (image,), prompt) for number, (image, prompt) in enumerate(pairs)]
    texts = one_by_one(families(kind), kind, asked)
    assert answered(families(kind), asked) == texts
    assert len(set(texts)) > len(prompts)  # the pictures make a difference


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind not in KINDS])
def test_generate_family_sampled_texts_are_those_of_any_batch_and_of_the_stream(
    families: Callable[[str], Path], kind: str
) -> None:
    prompts = TASKS if kind == "florence2" else QUESTIONS
    pairs = [(image, prompt) for image in photographs()[:3] for prompt in prompts]
    hot = Sampling(temperature=1.0, top_p=0.9, seed=3)
    asked = [Request(number, (image,), prompt, sampling=hot) for number, (image, prompt) in enumerate(pairs)]
    config = GeneratorConfig(str(families(kind)), max_new_tokens=TOKENS)
    generator = ImageTextToText(config, RUN)
    together = generator.generate(asked)
    apart = [one for request in asked for one in generator.generate([request])]
    assert _by_id(together) == _by_id(apart)
    assert _by_id(together)[0] == "".join(generator.stream(asked[0])).strip()


def _by_id(results: Sequence[Result | FailedRequest]) -> dict[int, str]:
    return {one.id: one.text for one in results if isinstance(one, Result)}


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind not in KINDS])
def test_generate_family_held_to_a_schema_follows_it_or_says_that_it_cannot(
    families: Callable[[str], Path], kind: str
) -> None:
    schema = '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}'
    closed = schema[:-1] + ', "additionalProperties": false}'
    config = GeneratorConfig(str(families(kind)), max_new_tokens=32)
    asked = [Request(number, (image,), "<OCR>", schema=closed) for number, image in enumerate(photographs())]
    generator = ImageTextToText(config, RUN)
    if kind == "florence2":
        with pytest.raises(GenerationError, match=r"^[^\n]*no schema$"):
            generator.generate(asked)
        return
    texts = _by_id(generator.generate(asked)).values()
    assert {type(json.loads(text)["a"]) for text in texts} == {bool}
    assert len(texts) == len(asked)


def test_generate_text_that_a_checkpoint_would_end_by_force_is_marked_as_cut(
    families: Callable[[str], Path],
) -> None:
    config = GeneratorConfig(str(families("florence2")), max_new_tokens=4)
    asked = [Request(number, (image,), "<OCR>") for number, image in enumerate(photographs())]
    made = [one for one in ImageTextToText(config, RUN).generate(asked) if isinstance(one, Result)]
    cut = [one for one in made if one.finish_reason is FinishReason.LENGTH]
    assert cut
    assert {one.completion_tokens for one in cut} == {4}


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind not in PLAIN])
def test_generate_family_with_none_to_three_pictures_and_turns_equals_transformers_one_by_one(
    families: Callable[[str], Path], kind: str
) -> None:
    a, b, c = photographs()[:3]
    turn = Turn("is it red?", "a cat")
    asked = [
        Request(0, (a,), "what is it?"),
        Request(1, (b, c), "what is it?"),
        Request(2, (c, b), "what is it?"),
        Request(3, (c, b, a), "how many objects are there?"),
        Request(4, (b, c), "and the moon?", (turn,)),
        Request(5, (), "what is a cat?"),
    ]
    made = answered(families(kind), asked)
    assert made == one_by_one(families(kind), kind, asked)
    assert made[1] != made[2]  # their order makes a difference


@pytest.mark.parametrize("kind", sorted(OFFICIAL))
def test_processor_of_pictures_alone_gives_what_the_official_one_does(
    families: Callable[[str], Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = load(families(kind)).processor
    official = _official(kind, ours, monkeypatch)
    pictures = [PIL.fromarray(image) for image in photographs()[:3]]
    nested = [[picture] for picture in pictures] if kind in PLAIN else [pictures[:1], pictures[1:]]
    prompts = ["<CAPTION>"] * 3 if kind in PLAIN else [rendered(ours, "what?", len(row)) for row in nested]
    given, expected = (
        one(images=nested, text=prompts, padding=True, return_tensors="pt") for one in (ours, official)
    )
    assert set(given) == set(expected)
    for name, value in expected.items():
        assert torch.equal(given[name], value), name


def _official(kind: str, ours: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The official class on the same parts, with nothing for videos: that would want torchvision."""
    official = getattr(transformers, OFFICIAL[kind])
    monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None)
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", str)
    settings = ("image_seq_len", "image_seq_length", "num_image_tokens", "vision_feature_select_strategy")
    known = official.__init__.__code__.co_varnames
    videos = {"video_processor": object()} if "video_processor" in known else {}
    options = {name: getattr(ours, name) for name in settings if name in known}
    return official(ours.image_processor, ours.tokenizer, **videos, **options)


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [
        ("qwen2_5_vl", 8 * 4 // 4),  # patches of 8 by 8, merged 2 by 2
        ("qwen3_vl", 8 * 4 // 4),
        ("smolvlm", (2 + 1) * 4),  # tiles of 32 by 32, and the whole; 4 tokens each
        ("internvl", (2 + 1) * 4),
        ("llava_onevision", 16 + 8 * 4 + 4),  # the whole, tiles of 4 by 4, a token at the end of each line
        ("florence2", 16 + 1),  # and their mean
    ],
)
def test_processor_picture_of_64_by_32_takes_as_many_tokens_as_by_hand(
    families: Callable[[str], Path], kind: str, tokens: int
) -> None:
    processor = load(families(kind)).processor
    picture = PIL.fromarray(np.zeros((32, 64, 3), np.uint8))
    inputs = processor(images=[[picture]], text=[rendered(processor, "<OCR>")], return_tensors="pt")
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == tokens
