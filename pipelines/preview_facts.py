"""What a preview shows, as plain data: the page and the terminal are written from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipelines.facts import Command, Outcome


@dataclass(frozen=True)
class Said:
    """One text, kept also where its status is not `ok`. `question`: empty for a caption."""

    question: str
    text: str
    status: str
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True)
class Writer:
    """A generator, and what it took for a picture: `seconds`, loading left out, and `tokens` that it wrote.

    `tokens`: None where it cannot know. `statuses`: texts by status.
    """

    name: str
    model: str
    seconds: float
    tokens: float | None
    statuses: Mapping[str, int]


@dataclass(frozen=True)
class PreviewPicture:
    """`said`: the texts of each writer, in their order. `thumbnail` None and an `error` for a bad picture."""

    uri: str
    thumbnail: str | None
    error: str | None
    said: tuple[tuple[Said, ...], ...]


@dataclass(frozen=True)
class PreviewReport:
    """All of a preview. `corpus`: what the page is headed with, the source. `found`: its images in all."""

    run: str
    corpus: str
    started: datetime
    seconds: float
    found: int
    writers: tuple[Writer, ...]
    pictures: tuple[PreviewPicture, ...]
    notes: tuple[str, ...] = ()
    commands: tuple[Command, ...] = ()
    outcome: Outcome = Outcome.COMPLETE
    pipeline: str = "preview"
