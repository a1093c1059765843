"""What became of the items of an export."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

NO_CAPTION = "not captioned yet"


@dataclass
class Tally:
    """Items by what became of them: `left_out` and `without_caption` by reason."""

    written: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    without_caption: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        self.written += other.written
        self.left_out.update(other.left_out)
        self.without_caption.update(other.without_caption)

    def to_dict(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Tally":
        return cls(stored["written"], Counter(stored["left_out"]), Counter(stored["without_caption"]))
