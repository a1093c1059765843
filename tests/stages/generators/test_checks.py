import dataclasses
from pathlib import Path

import numpy as np
import pytest

from stages.checkpoints import Device
from stages.generators.checks.faults import ChecksConfig, fault_of
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.image_text_to_text import ImageTextToText
from stages.generators.protocol import FinishReason, Request, Result
from stages.pocket.language import captions, detail, to_json
from stages.pocket.scenes import sample
from stages.schemas import Status
from tests.stages.generators.tiny_models import photographs, save_model

CHECKS = ChecksConfig()


def status(
    text: str,
    prompt: str = "describe the image.",
    checks: ChecksConfig = CHECKS,
    reason: FinishReason = FinishReason.STOP,
    thinking: str | None = None,
) -> str:
    request = Request(0, (np.zeros((2, 2, 3), np.uint8),), prompt)
    fault = fault_of(request, Result(0, text, reason, 1, 1, thinking), checks)
    if fault is None:
        return "ok"
    assert fault[1]
    assert "\n" not in fault[1]
    return fault[0].value


LEGITIMATE = [
    "a red circle, a red circle and a blue square",
    "a red circle, a red circle, a red circle and a blue square",
    "cat",
    "7",
    "+",
    "5️⃣ 🙂",
    "是",
    "两只猫",
    "no, no, no",
    "HA HA HA HA HA HA HA",
    "哈哈哈哈哈哈哈哈",
    "The sign reads: NO PARKING NO PARKING NO PARKING",
    "very, very, very, very good",
    "Row, row, row your boat. Merrily, merrily, merrily, merrily, it is a dream.",
    "555-5555-5555",
    "The total is 1,000,000,000,000",
    "Name: ____________________________\nDate: ______________\nSignature: " + "_" * 80,
    "Contents\n1. Introduction " + "." * 130 + " 3\n2. Methods " + "." * 134 + " 7",
    "| a | b | c |\n|---|---|---|\n" + "| 0 | 0 | 0 |\n" * 20 + "| 0 | 0 | 1 |",
    "| a | b | c |\n|---|---|---|\n" + "| n/a | n/a | n/a " * 3 + "|\n| yes | n/a | no |",
    "\n".join(f"{day}: 9-17" for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")),
    '[{"color": "blue", "shape": "star"}' + ', {"color": "blue", "shape": "star"}' * 20 + "]",
    "红色的圆形、红色的圆形和蓝色的正方形",
    "第一行有一个红色的圆形,第二行有一个红色的圆形,第三行有一个蓝色的圆形,第四行有一个绿色的圆形。",
    "图中有一只猫坐在红色的沙发上,旁边放着一杯咖啡和一本打开的书,窗外可以看到下雪的街道和几辆停着的汽车。",
    " ".join(
        f"{year}: {value} million," for year, value in zip(range(1990, 2024), range(20, 54), strict=True)
    ),
    " ".join(
        f"{hour:02}:{minute:02} Zürich HB platform {hour % 7}," for hour in range(5, 23) for minute in (3, 33)
    ),
]

LOOPS = [
    "a cup of tea and " * 12,
    "cup " * 30,
    '[{"color": "blue", "shape": "star"}' + ', {"color": "blue", "shape": "star"}' * 20,
    '{"summary": "' + "cup " * 30 + '"}',
    "a man in a red shirt is standing on the street. " * 3,
    "The image shows a cat. It is nice. " + "The cat is sitting on the sofa. " * 6,
    "\n".join(f"{number}. The image shows a cat on a sofa." for number in range(1, 12)),
    "- a red chair\n" * 9,
    "图中有一只猫。" * 8,
    "一个红色的圆形," * 7,
    "哈" * 40,
    "0" * 60,
    " ".join(
        f"there is a dog on the {thing} and there is a dog on the grass" for thing in ("left", "right") * 9
    ),
]

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, I cannot assist with that request.",
    "Sorry, I can't identify people in images.",
    "I am unable to view images.",
    "Unfortunately, I cannot see the image you uploaded.",
    "As an AI language model, I do not have eyes.",
    "I can't identify the person in this picture, but I can describe it.",
    "I don't have the ability to see images.",
    "很抱歉,我无法查看图片。",
    "抱歉,我不能回答这个问题。",
    "对不起,作为一个AI助手,我无法识别人物身份。",
    "作为一个人工智能语言模型,我没有视觉能力。",
    "我无法识别图中的人物身份。",
    "我无法提供相关信息。",
    "對不起,我無法描述這張圖片。",
]

NO_REFUSALS = [
    'a sign that reads "Sorry, we are closed"',
    "Sorry, we are closed",
    "I cannot see any people in the picture.",
    "I can't tell what colour the car is, it is too dark.",
    "a robot that says: as an AI language model, I cannot see",
    "I am a photographer, says the text on the shirt",
    "抱歉,本店今日休息",
    "牌子上写着:对不起,我们打烊了",
    "我看不清车牌号码",
]

ECHOES = [
    ("describe the image.", "Describe the image."),
    ("describe the image.", "describe the image"),
    ("what is in the picture? answer in one word.", "what is in the picture?"),
    ("answer with what you see. what colour is the car?", "What colour is the car?"),
    ("请描述这张图片。", "请描述这张图片"),
    ("图中有什么?请用一句话回答。", "图中有什么?"),
]

NO_ECHOES = [
    ("is it a cat or a dog?", "a dog"),
    ("is it a cat or a dog?", "a cat or a dog"),
    ("what is it?\nA. a brown dog\nB. a black cat", "B. a black cat"),
    ("is the car red?", "red"),
    ("a cat? a dog?", "a dog"),
    ("is the man wearing a hat?", "the man is wearing a hat"),
    ("图中是猫还是狗?", "狗"),
    ("a photo of", "a photo of a cat"),
    ("", "a cat"),
]


@pytest.mark.parametrize("text", LEGITIMATE)
def test_checks_legitimate_texts_are_ok(text: str) -> None:
    assert status(text) == "ok"


@pytest.mark.parametrize("text", LOOPS)
def test_checks_loops_are_repetitive(text: str) -> None:
    assert status(text) == "repetitive"


@pytest.mark.parametrize("text", LOOPS)
def test_checks_loops_that_are_not_looked_for_are_ok(text: str) -> None:
    assert status(text, checks=ChecksConfig(loop_chars=0, distinct_ratio=0.0)) == "ok"


def test_checks_line_to_sign_on_is_a_loop_only_where_the_text_was_cut() -> None:
    text = "Signature: " + "_" * 80
    assert [status(text, reason=reason) for reason in FinishReason] == ["ok", "repetitive"]


@pytest.mark.parametrize("text", REFUSALS)
def test_checks_refusals_are_refused(text: str) -> None:
    assert status(text) == "refused"
    assert status(text, checks=ChecksConfig(refusals=False)) == "ok"


@pytest.mark.parametrize("text", NO_REFUSALS)
def test_checks_texts_that_only_sound_like_refusals_are_ok(text: str) -> None:
    assert status(text) == "ok"


def test_checks_own_refusal_pattern_counts_at_the_start_only() -> None:
    checks = ChecksConfig(refusal_patterns=("(?s)keine.ahnung",))
    assert [status(text, checks=checks) for text in ("Keine Ahnung!", "ein Hund, keine Ahnung")] == [
        "refused",
        "ok",
    ]


@pytest.mark.parametrize(("prompt", "text"), ECHOES)
def test_checks_text_that_is_the_prompt_is_echoed(prompt: str, text: str) -> None:
    assert status(text, prompt) == "echoed"


@pytest.mark.parametrize(("prompt", "text"), NO_ECHOES)
def test_checks_answer_in_the_words_of_its_question_is_ok(prompt: str, text: str) -> None:
    assert status(text, prompt) == "ok"


@pytest.mark.parametrize("text", ["", "  \n", "\x1b\x00", "...", "!", "。"])
def test_checks_text_without_a_letter_is_no_text(text: str) -> None:
    assert status(text) == "no_text"


def test_checks_thinking_without_an_answer_is_no_answer() -> None:
    assert status("", thinking="It may be a cat.") == "no_answer"
    assert status("a cat", thinking="It may be a cat.") == "ok"


def test_checks_texts_of_drawn_pictures_are_ok() -> None:
    """All that the pocket captioner learned to say of 400 pictures: captions, long captions, JSON."""
    generator = np.random.default_rng(7)
    scenes = [sample(generator) for _ in range(400)]
    texts = [text for scene in scenes for text in (*captions(scene), detail(scene), to_json(scene))]
    assert {text: status(text) for text in texts if status(text) != "ok"} == {}


@pytest.mark.parametrize("kind", ["deepseek_vl", "blip"])
def test_checks_texts_of_a_random_model_left_running_are_degenerate(tmp_path: Path, kind: str) -> None:
    """Greedy text of random weights goes round, in whatever bytes; one of five mixes its loops."""
    folder = save_model(tmp_path, kind, ends=())
    run = GeneratorRun(device=Device.CPU, threads=1)
    model = ImageTextToText(GeneratorConfig(str(folder), max_new_tokens=256), run)
    asked = [Request(row, (image,), "what is it?") for row, image in enumerate(photographs())]
    results = {result.id: result for result in model.generate(asked) if isinstance(result, Result)}
    found = [fault_of(request, results[request.id], CHECKS) for request in asked]
    degenerate = [fault for fault in found if fault and fault[0] in (Status.REPETITIVE, Status.NO_TEXT)]
    assert len(degenerate) >= 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retries", -1),
        ("loop_chars", -1),
        ("json_repairs", -1),
        ("retry_temperature", 0.0),
        ("retry_temperature", float("inf")),
        ("retry_top_p", 0.0),
        ("retry_top_p", 1.5),
        ("distinct_ratio", 1.0),
        ("refusal_patterns", ("(",)),
    ],
)
def test_checks_config_bad_value_names_the_key(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^checks\.{field}[^\n]*$"):
        dataclasses.replace(CHECKS, **{field: value})  # type: ignore[arg-type]
