"""What a condition is made of: texts, numbers, columns and metadata, each of a kind."""

import ast
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow.compute as pc

from stages.told import ValueKind


class WhereError(ValueError):
    """The condition cannot be used; the message is one line for the user."""


class Kind(StrEnum):
    """What a term is, in words for a person."""

    NUMBER = "a number"
    TEXT = "a text"
    BOOLEAN = "a truth value"
    CONDITION = "a condition"
    METADATA = "metadata"  # of the kind of what it is compared with


KINDS = {
    Kind.NUMBER: ValueKind.NUMBER,
    Kind.TEXT: ValueKind.TEXT,
    Kind.BOOLEAN: ValueKind.BOOLEAN,
    Kind.CONDITION: ValueKind.BOOLEAN,
}
"""As what metadata is read where it is compared with a term of this kind."""


@dataclass(frozen=True)
class Term:
    """`expression`: None of metadata, whose kind is not known yet. `constant`: of a text or a number."""

    expression: Any
    kind: Kind
    column: bool = False
    path: tuple[str, ...] = ()
    constant: Any = None


def shown(node: ast.AST) -> str:
    """A part of the condition as messages name it."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def number_term(value: float) -> Term:
    """Raises: WhereError for an integer that Arrow has no type for."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise WhereError(f"where: {value} is more than 64 bits hold")
    return Term(pc.scalar(value), Kind.NUMBER, constant=value)


def is_large(term: Term) -> bool:
    """Whether it is an integer that a float64 may round: metadata's numbers are float64 otherwise."""
    return isinstance(term.constant, int) and abs(term.constant) >= 1 << 53


def join(expressions: list[Any], both: bool) -> Term:
    """In halves, so that a thousand of them are ten deep: Arrow walks an expression recursively."""
    if len(expressions) == 1:
        return Term(expressions[0], Kind.CONDITION)
    middle = len(expressions) // 2
    left, right = join(expressions[:middle], both), join(expressions[middle:], both)
    joined = left.expression & right.expression if both else left.expression | right.expression
    return Term(joined, Kind.CONDITION)


def check_alike(left: ast.expr, first: Term, right: ast.expr, second: Term) -> None:
    """Raises: WhereError where two terms cannot be compared."""
    kinds = {first.kind, second.kind}
    if Kind.CONDITION in kinds or (Kind.METADATA not in kinds and len(kinds) > 1):
        raise WhereError(
            f"where: {shown(left)} is {first.kind} and {shown(right)} is {second.kind}: "
            "only two numbers, two texts or two truth values can be compared"
        )
