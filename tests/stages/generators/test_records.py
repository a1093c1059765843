import pytest

from stages.generators.asking import Outcome
from stages.generators.checks.language import language_of
from stages.generators.protocol import FinishReason, Result
from stages.generators.records import recorded
from stages.schemas import Status


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("a man is riding a horse on the beach at sunset", "en"),
        ("eine rote Katze liegt auf dem Sofa", "de"),
        ("一只猫坐在沙发上", "zh"),
        ("圖中有一個男人騎著馬", "zh"),
        ("猫がソファに座っている", "ja"),
        ("a cat", None),
        ("7", None),
        ("", None),
        ("\ufffd\ufffd", None),
    ],
)
def test_language_of_text_is_named_where_it_is_clear(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_language_of_every_text_has_two_letters_or_none() -> None:
    """Cantonese and Wu have codes of three letters only."""
    for text in (
        "佢哋喺度食緊飯",
        "侬今朝饭吃过了伐",
        "buongiorno a tutti quanti",
        "zdravo svima, kako ste danas",
    ):
        assert len(language_of(text) or "xx") == 2


def test_recorded_text_that_is_not_ok_is_kept_beside_its_status() -> None:
    result = Result(
        3,
        "a cup of tea on the table and \x1b[31m",
        FinishReason.LENGTH,
        7,
        64,
        "let me see\x00",
        -0.123456,
        0.5,
    )
    assert recorded(Outcome(Status.REPETITIVE, "it goes round", result), "caption") == {
        "caption": "a cup of tea on the table and [31m",
        "language": "en",
        "thinking": "let me see",
        "finish_reason": "length",
        "prompt_tokens": 7,
        "completion_tokens": 64,
        "mean_logprob": -0.123,
        "latency_s": 0.5,
        "status": "repetitive",
        "error": "it goes round",
    }


def test_recorded_without_a_result_is_a_status_alone() -> None:
    assert recorded(Outcome(Status.FAILED, "RuntimeError", None), "answer") == {
        "status": "failed",
        "error": "RuntimeError",
    }
