"""Why an image has no pixels, in words that are the same on every run and every machine."""

import re

from stages.schemas import Status

_LIMIT = 200
_NOISE = (
    (re.compile(r"OpenCV\([^)]*\)\s*\S+:\d+:\s*error:\s*(\([^)]*\))?"), " "),  # version, source file, code
    (re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>", re.IGNORECASE), " "),
    (re.compile(r"\b0x[0-9a-f]{4,}\b", re.IGNORECASE), " "),
    (re.compile(r"(?<![\w.])/(?:[\w.+-]+/)+[\w.+-]*"), " "),
    (re.compile(r"[\x00-\x20\x7f-\x9f]+"), " "),
)


class BadImageError(Exception):
    """An image that cannot become pixels: a `status` that is not `ok`, and a line of up to 200 characters."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(clean(text))
        self.status = status


def clean(text: str) -> str:
    """A decoder's message without heap addresses, paths, versions and control characters."""
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    text = text.strip()
    return text if len(text) <= _LIMIT else text[: _LIMIT - 1] + "…"
