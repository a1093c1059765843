"""Pictures that a captioner fails on, and memory that runs out, at the edges of real models."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from transformers.models.blip.modeling_blip_text import BlipTextIntermediate
from transformers.models.llama.modeling_llama import LlamaMLP

from stages.answer import AnswerConfig, AnswerQuestions
from stages.base import Image, notes_of, pack_views, view_column
from stages.batching import OnOom
from stages.caption import CaptionConfig, CaptionImages
from stages.checkpoints import Device
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.image_text_to_text import ImageTextToText
from stages.generators.protocol import FailedRequest, Request, Result
from stages.questions.files import load_questions
from stages.schemas import Status
from tests.stages.generators.comparing import like
from tests.stages.generators.tiny_models import KINDS, photographs, save_model
from tests.stages.poison import fault, is_white, on_white, white

PROMPTS = ("describe the image.", "what is it?")
ERROR = "RuntimeError: a white picture in a tensor at"
CONVOLUTION = torch.nn.Conv2d  # the first thing that sees a picture
TEXT_LAYERS = (LlamaMLP, BlipTextIntermediate)

Outcomes = dict[int, Result | FailedRequest]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp(request.param), request.param)


def generator(folder: Path, on_oom: OnOom = OnOom.ROW) -> ImageTextToText:
    run = GeneratorRun(batch_size=4, device=Device.CPU, threads=1, max_kept_mb=16, on_oom=on_oom)
    return ImageTextToText(GeneratorConfig(str(folder), max_new_tokens=4), run)


def all_like(outcomes: Outcomes) -> Outcomes:
    return {id: like(result) for id, result in outcomes.items()}


def pictures(*poison: int) -> list[Image]:
    return [white(image) if row in poison else image for row, image in enumerate(photographs())]


def answered(model: ImageTextToText, images: Sequence[Image], prompts: Sequence[str] = PROMPTS) -> Outcomes:
    """By id: ten times the picture, and the prompt."""
    asked = [
        Request(10 * row + number, (image,), prompt)
        for row, image in enumerate(images)
        for number, prompt in enumerate(prompts)
    ]
    results = model.generate(asked)
    assert sorted(result.id for result in results) == [request.id for request in asked]
    return {result.id: result for result in results}


@pytest.mark.parametrize("poison", [{0}, {2}, {4}, {1, 3}], ids=str)
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]], ids=len)
def test_generate_pictures_that_the_model_raises_on_fail_alone(
    folder: Path, poison: set[int], prompts: Sequence[str]
) -> None:
    undisturbed = answered(generator(folder), pictures(), prompts)
    with fault(CONVOLUTION, raises=on_white):
        made = answered(generator(folder), pictures(*poison), prompts)
    assert made == {
        id: FailedRequest(id, Status.FAILED, ERROR) if id // 10 in poison else like(result)
        for id, result in undisturbed.items()
    }


def test_generate_after_a_picture_failed_answers_as_before(folder: Path) -> None:
    undisturbed, model = answered(generator(folder), pictures()), generator(folder)
    with fault(CONVOLUTION, raises=on_white):
        answered(model, pictures(2))
    assert answered(model, pictures()) == all_like(undisturbed)


@pytest.mark.parametrize("modules", [(CONVOLUTION,), TEXT_LAYERS], ids=["pictures", "words"])
@pytest.mark.parametrize("count", [1, 5])
def test_generate_model_that_raises_on_any_picture_raises(
    folder: Path, modules: tuple[type[torch.nn.Module], ...], count: int
) -> None:
    def broken(values: torch.Tensor) -> None:
        raise RuntimeError("a broken kernel")

    model = generator(folder)
    with fault(*modules, raises=broken), pytest.raises(RuntimeError, match="a broken kernel"):
        answered(model, pictures()[:count])


def room_for(count: int) -> Callable[[torch.Tensor], None]:
    def check(values: torch.Tensor) -> None:
        if len(values) > count:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return check


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]], ids=len)
def test_generate_out_of_memory_keeps_the_batch_size_that_worked(
    folder: Path, prompts: Sequence[str]
) -> None:
    undisturbed, model = answered(generator(folder), pictures(), prompts), generator(folder)
    with fault(*TEXT_LAYERS, raises=room_for(2)):
        assert answered(model, pictures(), prompts) == all_like(undisturbed)
    with fault(*TEXT_LAYERS, raises=room_for(2)) as lengths:
        assert answered(model, pictures(), prompts) == all_like(undisturbed)
    assert max(lengths) == 2
    assert list(model.notes) == ["batch size 4 ran out of memory, 2 is used"]


def test_generate_many_prompts_about_one_picture_out_of_memory_are_answered_one_by_one(folder: Path) -> None:
    prompts = ("what is it?", "how many objects are there?", "a cat or the moon? a red cup?")
    undisturbed, model = answered(generator(folder), pictures()[:1], prompts), generator(folder)
    with fault(*TEXT_LAYERS, raises=room_for(1)):
        assert answered(model, pictures()[:1], prompts) == all_like(undisturbed)
    assert list(model.notes) == []


def no_room_for_white(times: int) -> Callable[[torch.Tensor], None]:
    left = iter(range(times))

    def check(pixels: torch.Tensor) -> None:
        if is_white(pixels).any() and next(left, None) is not None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return check


def test_generate_picture_out_of_memory_alone_fails_and_leaves_the_batch_size(folder: Path) -> None:
    undisturbed, model = answered(generator(folder), pictures()), generator(folder)
    with fault(CONVOLUTION, raises=no_room_for_white(1000)):
        made = answered(model, pictures(3))
    failed = {id: result for id, result in made.items() if isinstance(result, FailedRequest)}
    assert {id: result.status for id, result in failed.items()} == dict.fromkeys((30, 31), Status.TOO_LARGE)
    assert made == all_like(undisturbed) | failed
    assert list(model.notes) == []


def test_generate_picture_out_of_memory_alone_on_the_cpu_is_answered(folder: Path) -> None:
    """Alone it fails twice: with as many texts together as were asked for, and text by text."""
    expected, model = answered(generator(folder), pictures(3)[3:4]), generator(folder, OnOom.CPU)
    with fault(CONVOLUTION, raises=no_room_for_white(2)):
        assert answered(model, pictures(3)[3:4]) == all_like(expected)
    assert len(model.notes) == 1


def test_captions_of_a_model_that_fails_on_a_picture_say_so(tmp_path: Path) -> None:
    config = CaptionConfig(GeneratorConfig(str(save_model(tmp_path, "llava")), max_new_tokens=4))
    stage = CaptionImages(config, GeneratorRun(batch_size=4, device=Device.CPU, threads=1), "small")
    with fault(CONVOLUTION, raises=on_white), fault(*TEXT_LAYERS, raises=room_for(1)):
        made = stage(_shard(pictures(1)))
    rows = made["caption"].to_pylist()
    assert [row["status"] for row in rows] == ["ok", "failed", "ok", "ok", "ok"]
    assert (rows[1]["caption"], rows[1]["finish_reason"], rows[1]["error"]) == (None, None, ERROR)
    assert notes_of(made) == ["batch size 4 ran out of memory, 1 is used"]


def test_answers_of_a_model_that_fails_on_a_picture_say_so(tmp_path: Path) -> None:
    generator = GeneratorConfig(str(save_model(tmp_path, "llava")), max_new_tokens=4)
    run = GeneratorRun(batch_size=4, device=Device.CPU, threads=1)
    stage = AnswerQuestions(AnswerConfig(generator, load_questions(PROMPTS)), run, "small")
    with fault(CONVOLUTION, raises=on_white), fault(*TEXT_LAYERS, raises=room_for(1)):
        made = stage(_shard(pictures(1)))
    rows = made["answers"].to_pylist()
    assert [[answer["status"] for answer in row] for row in rows] == [
        [status] * 2 for status in ("ok", "failed", "ok", "ok", "ok")
    ]
    assert [answer["question"] for answer in rows[1]] == list(PROMPTS)
    assert [(answer["answer"], answer["error"]) for answer in rows[1]] == [(None, ERROR)] * 2
    assert notes_of(made) == ["batch size 4 ran out of memory, 1 is used"]


def _shard(images: Sequence[Image]) -> pa.Table:
    ends = {"status": ["ok"] * len(images), "error": pa.nulls(len(images), pa.string())}
    return pa.table({**ends, view_column("small"): pack_views(images)})
