"""Questions about several pictures at once: `group by metadata.X order by metadata.Y`."""

import re
from dataclasses import dataclass

GROUP_LIMIT = 32
"""Most pictures in one prompt: at 576 tokens a picture, 32 fill 18 thousand tokens of context."""

_GROUPING = re.compile(
    r"group\s+by\s+metadata\.(?P<by>[^\s{}]+)\s+order\s+by\s+metadata\.(?P<order>[^\s{}]+)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Grouping:
    """Pictures of one value of `by`, in the order of `order`: columns of metadata."""

    by: str
    order: str


def parse_grouping(text: str) -> Grouping:
    """Raises: ValueError."""
    match = _GROUPING.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'images must be "group by metadata.NAME order by metadata.NAME", got {text!r}')
    return Grouping(match["by"], match["order"])
