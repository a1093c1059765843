"""Asking in rounds: first what stands alone, then what follows the answers of the round before."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from stages.generators.asking import Outcome
from stages.generators.fencing import neutral
from stages.generators.protocol import Request, Turn, clean
from stages.questions.groups import GROUP_LIMIT
from stages.questions.plan import Question, QuestionPlan
from stages.questions.prompts import QUESTION, prompt_of, rendered
from stages.questions.rows import Row
from stages.schemas import Status

Asking = Callable[[Sequence[Request]], Sequence[Outcome]]
_KNOWN = ("caption", "tags", "ocr")


@dataclass(frozen=True, eq=False)
class Asked:
    """One question to one row, and its outcome, once there is one. `text`: the question with its values.

    `shown`: the rows whose pictures it is about; `images`: their ids, where it is about a group.
    """

    question_id: int
    name: str
    text: str
    question: Question | None = None  # None: the picture's own
    shown: tuple[int, ...] = ()
    images: tuple[int, ...] | None = None
    turns: tuple[Turn, ...] = ()
    prompt: str = ""
    outcome: Outcome | None = None

    def not_asked(self, why: str) -> "Asked":
        return replace(self, outcome=Outcome(Status.NOT_ASKED, why, None))


_Found = dict[tuple[int, int], Asked]  # by row and question_id


def ask_all(rows: Sequence[Row], plan: QuestionPlan, template: str, asking: Asking) -> list[list[Asked]]:
    """For every row what it was asked, in the order of the plan, its own questions last.

    A question about a group is asked at the group's first row and at no other. A guest is asked nothing.
    `template`: the model's prompt, which holds {question}.
    """
    found: _Found = {}
    depths = plan.depths
    asker = _Asker(rows, plan, template)
    for depth in range(max(depths, default=0) + 1):
        ids = [id for id, own in enumerate(depths) if own == depth]
        ready = {(row, one.question_id): one for row in asker.hosts for one in asker.fixed(row, ids, found)}
        if depth == 0:
            ready |= {(row, one.question_id): one for row in asker.hosts for one in asker.own(row)}
        waiting = [key for key, one in sorted(ready.items(), key=_key) if one.outcome is None]
        outcomes = asking([asker.request(number, ready[key]) for number, key in enumerate(waiting)])
        for key, outcome in zip(waiting, outcomes, strict=True):
            ready[key] = replace(ready[key], outcome=outcome)
        found |= ready
    asked: list[list[Asked]] = [[] for _ in rows]
    for (row, _), one in sorted(found.items(), key=_key):
        asked[row].append(one)
    return asked


def _key(item: tuple[tuple[int, int], Asked]) -> tuple[int, int]:
    return item[0]


class _Asker:
    """What is asked of the rows of one shard."""

    def __init__(self, rows: Sequence[Row], plan: QuestionPlan, template: str) -> None:
        self._rows, self._plan, self._template = rows, plan, template
        self._places = {row.image_id: place for place, row in enumerate(rows)}
        self._ids = {question.name: id for id, question in enumerate(plan.questions)}
        self.hosts = [place for place, row in enumerate(rows) if not row.guest]

    def fixed(self, row: int, ids: Sequence[int], found: _Found) -> Iterator[Asked]:
        """The plan's questions `ids` to one row."""
        for id in ids:
            question = self._plan.questions[id]
            one = Asked(id, question.name, question.text, question)
            if question.follows is not None:
                placed = self._after(one, found.get((row, self._ids[question.follows])))
            elif question.group is not None:
                placed = self._grouped(one, row)
            else:
                placed = self._alone(one, row)
            if placed is not None:
                yield placed if placed.outcome else self._rendered(placed, question)

    def own(self, row: int) -> Iterator[Asked]:
        """The picture's own questions: texts, not templates."""
        for id, (name, text) in enumerate(self._rows[row].asked, len(self._plan.questions)):
            prompt = self._template.replace(QUESTION, neutral(clean(text)))
            yield self._alone(Asked(id, name or str(id), clean(text), prompt=prompt), row)

    def request(self, id: int, one: Asked) -> Request:
        rows = [self._rows[place] for place in one.shown]
        known = {name: _joined(name, rows) for name in _KNOWN if all(name in row.values for row in rows)}
        images = tuple(row.image for row in rows if row.image is not None)
        schema = one.question.answer_schema if one.question else None
        # A vector stands for one picture.
        vector = rows[0].embedding if len(rows) == 1 else None
        return Request(id, images, one.prompt, one.turns, known, schema, embedding=vector)

    def _alone(self, one: Asked, row: int) -> Asked:
        item = self._rows[row]
        if item.image is not None:
            return replace(one, shown=(row,))
        return replace(one, outcome=Outcome(Status(item.status), item.error, None))

    def _grouped(self, one: Asked, row: int) -> Asked | None:
        """At the first row of a group; pictures that cannot be read are left out."""
        item, grouping = self._rows[row], self._plan.needs.group
        assert grouping
        if item.group is None:
            by, order = f"metadata.{grouping.by}", f"metadata.{grouping.order}"
            if by not in item.values or order in item.values:
                return None  # in no group, or another picture is the first of it
            alone = self._alone(one, row)
            return alone if alone.outcome else one.not_asked(f"no {order}")
        if len(item.group) > GROUP_LIMIT:
            return one.not_asked(f"{len(item.group)} pictures in a group, the most are {GROUP_LIMIT}")
        strange = [id for id in item.group if id not in self._places]
        if strange:
            raise ValueError(
                f"the group of image {item.image_id} holds image {strange[0]}, which is not here"
            )
        shown = tuple(self._places[id] for id in item.group)
        shown = tuple(place for place in shown if self._rows[place].image is not None)
        images = tuple(id for id in item.group if self._places[id] in shown)
        return replace(one, shown=shown, images=images) if shown else self._alone(one, row)

    def _after(self, one: Asked, earlier: Asked | None) -> Asked | None:
        """A follow-up is about the pictures of what it follows, and has no answer where that has none."""
        if earlier is None:
            return None
        outcome = earlier.outcome
        assert outcome
        one = replace(one, images=earlier.images, shown=earlier.shown)
        if not earlier.shown:
            return replace(one, outcome=outcome)
        if outcome.status is not Status.OK or outcome.result is None:
            return one.not_asked(f"no answer to {earlier.name}, which it follows: {outcome.status.value}")
        turn = Turn(earlier.prompt, neutral(clean(outcome.result.text)))
        return replace(one, turns=(*earlier.turns, turn))

    def _rendered(self, one: Asked, question: Question) -> Asked:
        values: dict[str, str] = {}
        for name in question.template.names:
            lacking = [place for place in one.shown if name not in self._rows[place].values]
            if lacking:
                of = f" of image {self._rows[lacking[0]].image_id}" if one.images else ""
                return one.not_asked(f"no {name}{of}")
            values[name] = _joined(name, [self._rows[place] for place in one.shown])
        text = rendered(question, values)
        return replace(one, text=text, prompt=prompt_of(question, text, self._template))


def _joined(name: str, rows: Sequence[Row]) -> str:
    """The value that all rows share; else one line for each picture, numbered from 1."""
    values = [row.values[name] for row in rows]
    if len(set(values)) == 1:
        return values[0]
    return "\n".join(f"{number}: {value}" for number, value in enumerate(values, 1))
