"""The generator against transformers' own processor and `generate`, one picture and one prompt at a time."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image as PIL
from safetensors.torch import load_file, save_file

from stages.base import Image
from stages.checkpoints import Device, ModelLoadError
from stages.generators.backends import load_generator
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.image_text_to_text import ImageTextToText, picture_view
from stages.generators.protocol import (
    FailedRequest,
    FinishReason,
    Request,
    Result,
)
from stages.resize import Policy
from tests.stages.generators.comparing import all_like
from tests.stages.generators.counting import count_rows
from tests.stages.generators.tiny_models import KINDS, PICTURE_TOKENS, SHARING, photographs, save_model

PROMPTS = (
    "describe the image.",
    "what is it?",
    "how many objects are there? a red cup of coffee, or the moon?",
)
TOKENS = 8
VISION = ("CLIPVisionModel", "SiglipVisionModel")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_model(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def generator(folder: Path, batch_size: int = 4, max_kept_mb: int = 16, **what: Any) -> ImageTextToText:
    run = GeneratorRun(batch_size=batch_size, device=Device.CPU, threads=1, max_kept_mb=max_kept_mb)
    return ImageTextToText(GeneratorConfig(str(folder), **({"max_new_tokens": TOKENS} | what)), run)


def requests(images: list[Image], prompts: tuple[str, ...] = PROMPTS) -> list[Request]:
    pairs = [(image, prompt) for image in images for prompt in prompts]
    return [Request(number, (image,), prompt) for number, (image, prompt) in enumerate(pairs)]


def by_id(results: Sequence[Result | FailedRequest]) -> list[Result]:
    made = [result for result in results if isinstance(result, Result)]
    assert len(made) == len(results)
    return sorted(made, key=lambda result: result.id)


def reference(folder: Path, asked: list[Request]) -> list[list[int]]:
    """The tokens that each request alone is given, without any of the padding."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    found = []
    for request in asked:
        inputs = _inputs(processor, request)
        start = inputs["input_ids"].shape[1] - (model.config.model_type == "blip")
        output = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        found.append(output[0, start:].tolist())
    return found


def _inputs(processor: Any, request: Request) -> Any:
    picture = PIL.fromarray(request.images[0])
    if not processor.chat_template:
        return processor(images=picture, text=request.prompt, return_tensors="pt")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": request.prompt}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_generate_any_batch_size_equals_transformers_one_by_one(
    checkpoints: dict[str, Path], kind: str, batch_size: int
) -> None:
    asked = requests(photographs())
    results = by_id(generator(checkpoints[kind], batch_size).generate(asked))
    tokens = reference(checkpoints[kind], asked)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints[kind])
    texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]
    assert [result.text for result in results] == texts
    assert [result.completion_tokens for result in results] == [len(row) for row in tokens]
    assert len(set(texts)) > len(PROMPTS)  # the pictures make a difference


@pytest.mark.parametrize("kind", KINDS)
def test_generate_other_prompts_for_each_picture_equals_transformers_one_by_one(
    checkpoints: dict[str, Path], kind: str
) -> None:
    images = photographs()
    asked = [Request(n, (images[n % 5],), f"{PROMPTS[n % 3]} {'a cat? ' * (n % 4)}") for n in range(10)]
    results = by_id(generator(checkpoints[kind], 4).generate(asked))
    tokens = reference(checkpoints[kind], asked)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints[kind])
    texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]
    assert [result.text for result in results] == texts


def test_generate_same_prompt_about_equal_pictures_is_answered_for_each(
    checkpoints: dict[str, Path],
) -> None:
    image = photographs()[0]
    asked = [Request(number, (image.copy(),), PROMPTS[number % 2]) for number in (5, 6, 7, 8)]
    five, six, seven, eight = by_id(generator(checkpoints["llava"]).generate(asked))
    assert [seven, eight] == all_like([dataclasses.replace(five, id=7), dataclasses.replace(six, id=8)])
    assert five.text != six.text


@pytest.mark.parametrize("kind", KINDS)
def test_generate_prompt_tokens_are_those_of_the_prompt_without_padding(
    checkpoints: dict[str, Path], kind: str
) -> None:
    asked = requests(photographs()[:2])
    results = by_id(generator(checkpoints[kind], 32).generate(asked))
    processor = transformers.AutoProcessor.from_pretrained(checkpoints[kind])
    lengths = [_inputs(processor, request)["input_ids"].shape[1] - (kind == "blip") for request in asked]
    assert [result.prompt_tokens for result in results] == lengths
    assert len(set(lengths)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_generate_end_token_stops_and_counts(tmp_path: Path, checkpoints: dict[str, Path], kind: str) -> None:
    asked = requests(photographs())
    tokens = reference(checkpoints[kind], asked)
    end = next(row[3] for row in tokens if len(row) > 3 and row[3] not in row[:3])
    folder = save_model(tmp_path / kind, kind, ends=(2, end))
    if kind == "blip":  # its one end token stands in the config
        config = json.loads((folder / "config.json").read_text("utf-8"))
        config["text_config"]["sep_token_id"] = end
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
    results = by_id(generator(folder, 32).generate(asked))
    for result, row in zip(results, tokens, strict=True):
        if end in row:
            assert (result.finish_reason, result.completion_tokens) == (FinishReason.STOP, row.index(end) + 1)
        elif 2 not in row:
            assert (result.finish_reason, result.completion_tokens) == (FinishReason.LENGTH, TOKENS)
    assert {result.finish_reason for result in results} == set(FinishReason)


def test_generate_classes_that_take_features_share_the_encoding(checkpoints: dict[str, Path]) -> None:
    sharing = [kind for kind in KINDS if generator(checkpoints[kind]).encodes_once]
    assert sharing == list(SHARING)


@pytest.mark.parametrize("kind", ["llava", "deepseek_vl"])
def test_generate_shared_picture_is_encoded_once(checkpoints: dict[str, Path], kind: str) -> None:
    images = photographs()
    asked = requests([*images, images[0].copy()])
    one = generator(checkpoints[kind], batch_size=2)
    with count_rows(*VISION) as counts:
        one.generate(asked)
    assert sum(rows for rows, _ in counts) == len(images)


@pytest.mark.parametrize("kind", ["llava", "deepseek_vl"])
def test_generate_same_prompts_read_each_picture_once(checkpoints: dict[str, Path], kind: str) -> None:
    one = generator(checkpoints[kind], batch_size=5)
    with count_rows("LlamaModel") as counts:
        one.generate(requests(photographs(), PROMPTS[:2]))
    whole = [tokens for _, tokens in counts if tokens > PICTURE_TOKENS]
    assert len(whole) == 1


def test_generate_picture_of_the_last_call_is_not_encoded_again(checkpoints: dict[str, Path]) -> None:
    first, second = photographs()[:3], photographs()[1:4]
    one, fresh = generator(checkpoints["deepseek_vl"]), generator(checkpoints["deepseek_vl"])
    one.generate(requests(first))
    with count_rows(*VISION) as counts:
        results = one.generate(requests(second))
    assert sum(rows for rows, _ in counts) == 1
    assert by_id(results) == all_like(by_id(fresh.generate(requests(second))))


def test_generate_kept_pictures_above_the_budget_are_encoded_again(checkpoints: dict[str, Path]) -> None:
    one = generator(checkpoints["deepseek_vl"], max_kept_mb=0)
    one.generate(requests(photographs()))
    with count_rows(*VISION) as counts:
        one.generate(requests(photographs()))
    assert sum(rows for rows, _ in counts) == len(photographs())


@pytest.mark.parametrize("shape", [(1, 9), (3, 40), (40, 3), (1, 1)])
def test_generate_side_like_a_channel_count_is_still_a_side(
    checkpoints: dict[str, Path], shape: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    asked = requests([image, photographs()[0]])
    results = by_id(generator(checkpoints["deepseek_vl"]).generate(asked))
    tokens = reference(checkpoints["deepseek_vl"], asked)
    assert [result.completion_tokens for result in results] == [len(row) for row in tokens]
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints["deepseek_vl"])
    assert results[0].text == tokenizer.decode(tokens[0], skip_special_tokens=True).strip()


def test_generate_same_bytes_in_another_shape_are_another_picture(checkpoints: dict[str, Path]) -> None:
    image = photographs()[0][:40, :60]
    asked = requests([image.copy(), image.reshape(60, 40, 3)])
    one = generator(checkpoints["deepseek_vl"])
    apart = one.generate(asked[:3]) + generator(checkpoints["deepseek_vl"]).generate(asked[3:])
    assert by_id(one.generate(asked)) == all_like(by_id(apart))


def test_generate_no_requests_gives_no_results(checkpoints: dict[str, Path]) -> None:
    assert generator(checkpoints["deepseek_vl"]).generate([]) == []


def test_generate_checkpoint_that_pads_right_is_padded_left(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "right", "deepseek_vl")
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"padding_side": "right"}), "utf-8")
    asked = requests(photographs())
    right, left = generator(folder, 32), generator(checkpoints["deepseek_vl"], 32)
    assert by_id(right.generate(asked)) == all_like(by_id(left.generate(asked)))


@pytest.mark.parametrize("kind", ["deepseek_vl", "blip"])
def test_generate_sampled_texts_do_not_depend_on_the_batch(checkpoints: dict[str, Path], kind: str) -> None:
    asked = requests(photographs())
    sampled: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "seed": 7}
    whole = by_id(generator(checkpoints[kind], 32, **sampled).generate(asked))
    parts = generator(checkpoints[kind], 2, **sampled)
    backwards = parts.generate(asked[7:][::-1]) + parts.generate(asked[:7])
    assert by_id(backwards) == all_like(whole)
    for other in (sampled | {"seed": 8}, {}):
        different = by_id(generator(checkpoints[kind], 32, **other).generate(asked))
        assert [result.text for result in whole] != [result.text for result in different]


def test_generate_sampling_every_picture_and_prompt_draws_its_own(checkpoints: dict[str, Path]) -> None:
    asked = requests(photographs())
    results = generator(checkpoints["deepseek_vl"], temperature=1e6).generate(asked)
    assert len({result.text for result in by_id(results)}) == len(asked)


def test_generate_sampling_from_one_token_is_greedy(checkpoints: dict[str, Path]) -> None:
    asked = requests(photographs())
    folder = checkpoints["llava"]
    sampled = generator(folder, temperature=1.0, top_p=1e-6).generate(asked)
    assert by_id(sampled) == all_like(by_id(generator(folder).generate(asked)))


def test_load_generator_missing_tensor_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "deepseek_vl")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if "self_attn" in name)
    save_file({key: value for key, value in weights.items() if key != name}, folder / "model.safetensors")
    with pytest.raises(ModelLoadError, match="misses"):
        generator(folder)


def test_load_generator_tokenizer_without_padding_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "deepseek_vl")
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelLoadError, match="cannot pad on the left"):
        generator(folder)


def test_load_generator_equal_configs_share_one_model(checkpoints: dict[str, Path]) -> None:
    config = GeneratorConfig(str(checkpoints["deepseek_vl"]))
    run = GeneratorRun(device=Device.CPU, threads=1)
    assert load_generator(config, run) is load_generator(dataclasses.replace(config), run)
    assert load_generator(dataclasses.replace(config, seed=1), run) is not load_generator(config, run)


@pytest.mark.parametrize(("kind", "side"), [("deepseek_vl", 32), ("llava", 64), ("idefics3", 64)])
def test_picture_view_is_as_large_as_the_processor_uses(
    checkpoints: dict[str, Path], kind: str, side: int
) -> None:
    config = GeneratorConfig(str(checkpoints[kind]))
    assert (picture_view(config).policy, picture_view(config).size) == (Policy.FIT, side)
    assert picture_view(dataclasses.replace(config, max_side=50)).size == 50
