"""What a reasoning model wrote, parted into its thinking and its answer."""

from typing import NamedTuple

THINK, THOUGHT = "<think>", "</think>"


class Parted(NamedTuple):
    """`answer` is empty where the model never got to it; then all it wrote is in `thinking`."""

    thinking: str | None
    answer: str


def part_thinking(text: str, primed: bool) -> Parted:
    """Splits at the last </think>: what comes after it is the answer.

    `primed`: the prompt ends with <think>, as the templates of DeepSeek-R1 do, so that the text begins amid
    the thinking and holds no <think> of its own. A text that is in its thinking at its end has no answer: a
    monologue is never taken for one. A text without any mark, of a model that was not primed, is the answer.
    """
    before, mark, after = text.rpartition(THOUGHT)
    if mark:
        return Parted(_bare(before), _answer(after))
    if primed or THINK in text:
        return Parted(_bare(text), "")
    return Parted(None, text.strip())


def is_primed(prompt: str) -> bool:
    """Whether a rendered prompt has opened the thinking already."""
    return prompt.rstrip().endswith(THINK)


def _bare(thinking: str) -> str | None:
    return thinking.strip().removeprefix(THINK).strip() or None


def _answer(text: str) -> str:
    """A <think> behind the last </think> was opened again and not closed: what it holds is no answer."""
    return text.split(THINK, 1)[0].strip()
