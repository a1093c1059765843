"""Texts that come from data, made safe to look at."""

import json
import unicodedata
from typing import Any

MAX_CHARS = 2000

# The joiners belong to scripts and emoji; everything else of these categories hides or reorders text.
_JOINERS = "\u200c\u200d"
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def legible(text: str, max_chars: int = MAX_CHARS) -> str:
    """One line without control, bidi or invisible characters, those shown as `␛` or `⟨202E⟩`.

    A text over `max_chars` loses its middle, so that both ends of a URI stay.
    """
    if len(text) > max_chars:
        text = f"{text[: max_chars // 2]} … {text[-max_chars // 2 :]}"
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def legible_json(value: Any) -> str:
    """Indented JSON of the same value, with escapes for what `legible` would show otherwise."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if text.isascii() and "\x7f" not in text:
        return text
    # Outside of strings JSON has none of these characters but the line feeds of its layout.
    return "".join(char if char == "\n" or _is_visible(char) else json.dumps(char)[1:-1] for char in text)


def _is_visible(char: str) -> bool:
    return char in _JOINERS or unicodedata.category(char) not in _INVISIBLE


def _visible(char: str) -> str:
    if char in "\n\r\t":
        return " "
    if _is_visible(char):
        return char
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨{code:04X}⟩"
