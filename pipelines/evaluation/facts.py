"""What an evaluation found, as plain data: the page, the terminal and scores.json are written from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pipelines.facts import Command, Outcome


@dataclass(frozen=True)
class Score:
    """A score over `n` items, and the ends of its 95% interval."""

    name: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Breakdown:
    """The main score of groups of items. `by`: such as "answer type"; `groups`: by name."""

    by: str
    groups: Mapping[str, Score]


@dataclass(frozen=True)
class Trouble:
    """`count` ids that are amiss, of which `first` are some."""

    what: str
    count: int
    first: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One of the items that are shown. `other`: what the run said that it is compared with.

    `thumbnail`: a data URI of `report.thumbnail`, None where no corpus knows the picture.
    """

    key: str
    prediction: str
    references: tuple[str, ...]
    score: float
    image_id: int | None = None
    uri: str | None = None
    question: str | None = None
    thumbnail: str | None = None
    other: str | None = None
    other_score: float | None = None


@dataclass(frozen=True)
class Change:
    """A score minus that of the run it is compared with; items whose own score is better, or worse."""

    name: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    better: int
    worse: int
    higher_is_better: bool = True

    @property
    def within_noise(self) -> bool:
        return self.low <= 0 <= self.high

    @property
    def verdict(self) -> str:
        if self.within_noise:
            return "within noise"
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Comparison:
    """With another run over the same items. `main`: the score by which items are `better` and `worse`."""

    run: str
    of: str
    changes: tuple[Change, ...]
    main: str
    better: tuple[Item, ...]
    worse: tuple[Item, ...]


@dataclass(frozen=True)
class Past:
    """An earlier run of the same task over the same items, or this one."""

    run: str
    of: str
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class EvaluationReport:
    """All of an evaluation. `corpus`: what the page is headed with. `of`: what was evaluated.

    `scored` of `references` items count. `settings`: what changes scores; `facts`: what else is to be said.
    `past`: earlier runs, the oldest first. `worst`: the items that score least by `main`.
    """

    run: str
    corpus: str
    started: datetime
    seconds: float
    task: str
    of: str
    data: str
    scored: int
    references: int
    scores: tuple[Score, ...]
    main: str
    settings: Mapping[str, str]
    facts: Mapping[str, str] = field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()
    breakdowns: tuple[Breakdown, ...] = ()
    past: tuple[Past, ...] = ()
    worst: tuple[Item, ...] = ()
    comparison: Comparison | None = None
    commands: tuple[Command, ...] = ()
    notes: tuple[str, ...] = ()
    outcome: Outcome = Outcome.COMPLETE
    pipeline: str = "evaluate"
