"""Texts that go round: what small models, cut loose, do most."""

import re
import unicodedata
from collections.abc import Sequence

# A unit said three times is a loop if it is a sentence, and rhetoric if it is a word: `loop_chars` draws the
# line. At 40, "a red circle, " may come three times in a row, "ha " fourteen, a sentence of 40 letters twice.
_LEAST_TIMES = 3
_LONGEST_TEXT = 4000  # characters that are looked at, from the end
# A model may come out of a loop again, and the cells of a table may be alike: within a text a loop is longer.
_WITHIN = 3
_RUN = re.compile(r"(.{1,60}?)\1{2,}")
_UNDECODED = "\ufffd"  # what is left of bytes that are no UTF-8: a model that writes those, writes no sign
# The "7. " of a numbered loop would make each of its rounds differ.
_LIST_MARK = re.compile(r"(?:(?<=\s)|^)(?:\d{1,3}[.)、]|[-*•])\s+")
WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_GRAM = 4
# Below 60 runs of four words a list of like things can come under 0.3; none of the texts measured does above.
_LEAST_GRAMS = 60


def loop_in(text: str, loop_chars: int, distinct_ratio: float, cut: bool) -> str | None:
    """What goes round in a text, as one line; None where nothing does. `cut`: at `max_new_tokens`.

    A run of punctuation, such as the line to sign on, is a loop only if the text was cut within it; one of
    numbers, only at the end.
    """
    text = _LIST_MARK.sub("", text[-_LONGEST_TEXT:].casefold())
    text = f" {' '.join(text.split())}"  # the space before the first word, as before those that follow
    if loop_chars and (unit := _repeated_end(text, loop_chars)) and (cut or _says(unit)):
        return f"the text ends with {_short(unit)} again and again"
    if loop_chars and (unit := _repeated_within(text, _WITHIN * loop_chars)):
        return f"the text has {_short(unit)} again and again"
    ratio = _distinct(WORD.findall(text))
    if ratio < distinct_ratio:
        return f"of its runs of {_GRAM} words only {ratio:.0%} differ"
    return None


def _repeated_end(text: str, least: int) -> str | None:
    """The shortest unit that ends a text over and over, copies of `least` characters in all."""
    for length in range(1, len(text) // _LEAST_TIMES + 1):
        unit = text[-length:]
        if text.endswith(unit * _LEAST_TIMES):
            copies = -(-least // _width(unit))
            if text.endswith(unit * max(_LEAST_TIMES, copies + 1)):
                return unit
    return None


def _repeated_within(text: str, least: int) -> str | None:
    """The first unit with a letter that comes over and over somewhere, `least` characters in all."""
    for run in _RUN.finditer(text):
        if _width(run[0]) >= least and any(letter.isalpha() or letter == _UNDECODED for letter in run[1]):
            return run[1]
    return None


def _says(unit: str) -> bool:
    return any(character.isalnum() or character == _UNDECODED for character in unit)


def _width(text: str) -> int:
    """Characters, wide ones twice: a Chinese one says about as much as two letters."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _distinct(words: Sequence[str]) -> float:
    """The share of runs of four words that differ; 1 for short texts. Runs of numbers, as in tables, are left
    out.
    """
    grams = [tuple(words[start : start + _GRAM]) for start in range(len(words) - _GRAM + 1)]
    said = [gram for gram in grams if not all(word.isdecimal() for word in gram)]
    return len(set(said)) / len(said) if len(said) >= _LEAST_GRAMS else 1.0


def _short(text: str) -> str:
    text = text.strip() or text
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
