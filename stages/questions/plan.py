"""What is asked, checked: questions that know their templates, follow-ups, groups and schemas."""

from dataclasses import dataclass

from stages.questions.groups import Grouping
from stages.questions.templates import Template, parse_template
from stages.questions.typed import typed_answer
from stages.schemas import ANSWERS

DISCLAIMER = "disclaimer"
LANGUAGES = ("en", "zh")
RESERVED = frozenset({*(field.name for field in ANSWERS), DISCLAIMER})
"""Columns of every answers dataset: no question has such a name."""


@dataclass(frozen=True)
class Question:
    """One question. Raises: ValueError.

    `text`: its template. `follows`: the name of the question whose prompt and answer it sees as earlier
    turns. `group`: which pictures are shown together. `answer_schema`: a JSON schema, as text, which
    the prompt holds too unless `tell_schema` is false: for models that were trained on a question without it.
    `language`: of the words that are added to the prompt. `disclaimer`: what must be read with its answers.
    """

    name: str
    text: str
    follows: str | None = None
    group: Grouping | None = None
    answer_schema: str | None = None
    tell_schema: bool = True
    language: str = "en"
    disclaimer: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", self.text.strip())
        if not self.text:
            raise ValueError("question must not be empty")
        if not (self.name.isidentifier() or self.name.isdecimal()):
            raise ValueError(
                f"name must be letters, digits and _, and begin with no digit, got {self.name!r}"
            )
        if self.name.casefold() in RESERVED:
            raise ValueError(f"name must not be that of a column of answers, got {self.name!r}")
        if self.language not in LANGUAGES:
            raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, got {self.language!r}")
        if self.follows is not None and self.group is not None:
            raise ValueError("images must be left out: a follow-up is about the pictures of what it follows")
        _ = self.template
        if self.answer_schema is not None:
            typed_answer(self.answer_schema)

    @property
    def template(self) -> Template:
        return parse_template(self.text)


@dataclass(frozen=True)
class Needs:
    """What a plan needs besides pictures. `texts`: captions datasets by name; `metadata`: its values by name.

    `original_caption` and `metadata` are what the source says, the latter also what a file says.
    """

    captions: bool = False
    tags: bool = False
    texts: tuple[str, ...] = ()
    original_caption: bool = False
    metadata: tuple[str, ...] = ()
    group: Grouping | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the stream that hold it."""
        found = {
            "caption": self.captions,
            "tags": self.tags,
            "original_caption": self.original_caption,
            "metadata": bool(self.metadata),
            "group": self.group is not None,
            "image_id": self.group is not None,
        }
        texts = tuple(f"text:{name}" for name in self.texts)
        return (*(name for name, needed in found.items() if needed), *texts)

    @property
    def beyond_pixels(self) -> bool:
        """Whether pictures of equal bytes can have different answers."""
        return self.original_caption or bool(self.metadata) or self.group is not None


@dataclass(frozen=True)
class QuestionPlan:
    """Questions in order; a question's place is its `question_id`. Raises: ValueError."""

    questions: tuple[Question, ...] = ()

    def __post_init__(self) -> None:
        taken: set[str] = set()
        for question in self.questions:
            if question.name.casefold() in taken:
                raise ValueError(f"question {question.name}: another question has this name")
            taken.add(question.name.casefold())
        _ = self.depths
        groupings = {question.group for question in self.questions if question.group is not None}
        if len(groupings) > 1:
            raise ValueError(f"images must be grouped alike by all questions, got {len(groupings)} ways")

    @property
    def depths(self) -> tuple[int, ...]:
        """Of each question, how many it follows, one after another. Raises: ValueError for a circle."""
        return tuple(len(self.followed(question)) for question in self.questions)

    def followed(self, question: Question) -> tuple[Question, ...]:
        """The questions before this one in its conversation, the first one first."""
        by_name = {other.name: other for other in self.questions}
        chain: list[Question] = []
        while question.follows is not None:
            earlier = by_name.get(question.follows)
            if earlier is None:
                raise ValueError(
                    f"question {question.name}: follows must be the name of a question "
                    f"({', '.join(by_name)}), got {question.follows!r}"
                )
            if earlier in chain or earlier.follows == earlier.name:
                raise ValueError(f"question {question.name}: follows leads back to the question itself")
            chain.append(earlier)
            question = earlier
        return tuple(reversed(chain))

    def grouping(self, question: Question) -> Grouping | None:
        """Of a question, or of the first one of its conversation."""
        return next(iter(self.followed(question)), question).group

    @property
    def asked_of_each(self) -> list[int]:
        """The ids of the questions that every picture is asked: of groups, only the first one is."""
        return [id for id, question in enumerate(self.questions) if self.grouping(question) is None]

    @property
    def needs(self) -> Needs:
        names = {name for question in self.questions for name in question.template.names}
        group = next((question.group for question in self.questions if question.group), None)
        columns = {name.removeprefix("metadata.") for name in names if name.startswith("metadata.")}
        return Needs(
            captions="caption" in names,
            tags="tags" in names,
            texts=("ocr",) if "ocr" in names else (),
            original_caption="original_caption" in names,
            metadata=tuple(sorted(columns | set((group.by, group.order) if group else ()))),
            group=group,
        )
