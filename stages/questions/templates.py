"""Templates of questions: what they ask for, and how values are put into them."""

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.generators.fencing import tagged

_KNOWN = ("caption", "tags", "ocr", "original_caption")
ALLOWED = "{caption}, {tags}, {ocr}, {original_caption} or {metadata.NAME}; doubled braces for real ones"
_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class Template:
    """`parts` in order: plain texts, and names of values at the odd places."""

    parts: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What it needs, each once: `caption`, `tags`, `ocr`, `original_caption`, `metadata.NAME`."""
        return tuple(dict.fromkeys(self.parts[1::2]))

    def render(self, values: Mapping[str, str]) -> str:
        """Every value in a fence named after it: `<caption>a red ball</caption>`. Raises: KeyError."""
        return "".join(
            tagged(part, values[part]) if place % 2 else part for place, part in enumerate(self.parts)
        )


@functools.lru_cache(maxsize=1024)
def parse_template(text: str) -> Template:
    """Raises: ValueError for a placeholder that is not allowed, and for a brace that stands alone."""
    parts, start = [""], 0
    for match in _PART.finditer(text):
        parts[-1] += text[start : match.start()]
        start = match.end()
        if match[0] in ("{{", "}}"):
            parts[-1] += match[0][0]
        else:
            parts += [_name(match), ""]
    parts[-1] += text[start:]
    return Template(tuple(parts))


def _name(match: re.Match[str]) -> str:
    name = (match[1] or "").strip()
    column = name.removeprefix("metadata.")
    if name in _KNOWN or (column != name and column and not set(column) & set("<>\n")):
        return name
    raise ValueError(f"{match[0]} is not known: allowed are {ALLOWED}")


def as_text(value: Any) -> str | None:
    """A value of a table as text; None where it is missing: null, not a number, or empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str) if value else None
    return str(value).strip() or None
