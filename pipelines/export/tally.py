"""What became of the items of an export."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

NO_CAPTION = "not captioned yet"
_SOURCE = "source: "


@dataclass
class Tally:
    """Items by what became of them: `left_out` and `without_caption` by reason."""

    written: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    without_caption: Counter[str] = field(default_factory=Counter)

    @property
    def unread(self) -> int:
        """Items that are good in the corpus, and whose bytes the source did not give now."""
        return sum(count for reason, count in self.left_out.items() if reason.startswith(_SOURCE))

    def add_unread(self, status: str) -> None:
        self.left_out[f"{_SOURCE}{status}"] += 1

    def add(self, other: "Tally") -> None:
        self.written += other.written
        self.left_out.update(other.left_out)
        self.without_caption.update(other.without_caption)

    def to_dict(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Tally":
        return cls(stored["written"], Counter(stored["left_out"]), Counter(stored["without_caption"]))
