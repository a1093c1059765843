"""`where=` of a search: conditions on the columns of `items`, out of a text that can do nothing else.

The text is parsed by Python and walked through; what is not named here is refused, and nothing is run.
As in SQL, a comparison with a value that is missing is neither true nor false, and neither is its `not`.
"""

import ast
import operator
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus import Corpus
from stages.index.vectors import Ids
from stages.schemas import ITEMS

_ALLOWED = (
    "allowed: columns, numbers, texts in quotes, == != < <= > >=, in, not in, is None, and, or, not, "
    "contains, starts_with, ends_with, matches"
)
# Rows that are filtered together: 10 MB of a few columns; the filter itself costs 0.3 ms a call.
_ROWS = 1 << 16
_LONGEST = 10_000


class WhereError(ValueError):
    """The condition cannot be used; the message is one line for the user."""


class _Kind(StrEnum):
    NUMBER = "a number"
    TEXT = "a text"
    CONDITION = "a condition"


@dataclass(frozen=True)
class _Term:
    expression: Any
    kind: _Kind
    column: bool = False


@dataclass(frozen=True)
class Where:
    """A condition. `expression`: of `pyarrow.compute`; `columns`: of `items`, those that it names."""

    expression: Any
    columns: tuple[str, ...]


def parse_where(text: str) -> Where:
    """Raises: WhereError."""
    parsed = _parse(text)
    try:
        term = _term(parsed.body)
    except RecursionError as error:
        raise WhereError("where is nested too deeply") from error
    if term.kind is not _Kind.CONDITION:
        raise WhereError(f"where must be a condition, {_shown(parsed)} is {term.kind}")
    names = {node.id for node in ast.walk(parsed) if isinstance(node, ast.Name)}
    return Where(term.expression, tuple(name for name in ITEMS.names if name in names))


def matching(corpus: Corpus, where: Where) -> Iterator[Ids]:
    """The ids of the items that meet the condition, ascending: int64 [n], some at a time.

    Reads the columns that are named and no others; items that are gone count too. Raises: CorpusError.
    """
    held: list[pa.Table] = []
    for _, table in corpus.scan("items", dict.fromkeys(["image_id", *where.columns])):
        held.append(table)
        if sum(map(len, held)) >= _ROWS:
            yield _matching(held, where)
            held = []
    if held:
        yield _matching(held, where)


def _matching(tables: list[pa.Table], where: Where) -> Ids:
    ids: Ids = pa.concat_tables(tables).filter(where.expression)["image_id"].to_numpy()
    return ids


def _parse(text: str) -> ast.Expression:
    if len(text) > _LONGEST:
        raise WhereError(f"where must be at most {_LONGEST:,} characters long, got {len(text):,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of `\d` in a text, which is what a pattern wants
            return ast.parse(text.strip().replace("\n", " "), mode="eval")
    except SyntaxError as error:
        at = f" at character {error.offset}" if error.offset else ""
        raise WhereError(f"where cannot be read{at}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise WhereError(f"where cannot be read: {error}") from error


def _term(node: ast.expr) -> _Term:
    match node:
        case ast.Name(id=name):
            return _column(name)
        case ast.Constant(value=str() as text):
            return _Term(pc.scalar(text), _Kind.TEXT)
        case ast.Constant(value=bool() | None):
            pass
        case ast.Constant(value=int() | float() as number):
            return _number(number)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return _number(-number)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _Term(~_condition(operand), _Kind.CONDITION)
        case ast.BoolOp(op=operation, values=values):
            return _joined([_condition(value) for value in values], isinstance(operation, ast.And))
        case ast.Compare(left=left, ops=operations, comparators=others):
            pairs = zip([left, *others[:-1]], operations, others, strict=True)
            return _joined([_comparison(*pair) for pair in pairs], True)
        case ast.Call(func=ast.Name(id=name), args=[column, ast.Constant(value=str() as text)], keywords=[]):
            return _call(name, column, text)
    raise WhereError(f"where: {_shown(node)} is not allowed; {_ALLOWED}")


def _shown(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def _column(name: str) -> _Term:
    if name not in ITEMS.names:
        raise WhereError(
            f"where: items have no column {name} (columns: {', '.join(ITEMS.names)}); texts are in quotes"
        )
    text = pa.types.is_string(ITEMS.field(name).type)
    return _Term(pc.field(name), _Kind.TEXT if text else _Kind.NUMBER, column=True)


def _number(value: float) -> _Term:
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise WhereError(f"where: {value} is more than 64 bits hold")
    return _Term(pc.scalar(value), _Kind.NUMBER)


def _condition(node: ast.expr) -> Any:
    term = _term(node)
    if term.kind is not _Kind.CONDITION:
        raise WhereError(f"where: {_shown(node)} is {term.kind}, and/or/not want conditions")
    return term.expression


def _joined(expressions: list[Any], both: bool) -> _Term:
    """In halves, so that a thousand of them are ten deep: Arrow walks an expression recursively."""
    if len(expressions) == 1:
        return _Term(expressions[0], _Kind.CONDITION)
    middle = len(expressions) // 2
    left, right = _joined(expressions[:middle], both), _joined(expressions[middle:], both)
    joined = left.expression & right.expression if both else left.expression | right.expression
    return _Term(joined, _Kind.CONDITION)


_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _comparison(left: ast.expr, operation: ast.cmpop, right: ast.expr) -> Any:
    if isinstance(operation, ast.Is | ast.IsNot):
        return _is_missing(left, operation, right)
    if isinstance(operation, ast.In | ast.NotIn):
        found = _is_in(left, right)
        return ~found if isinstance(operation, ast.NotIn) else found
    first, second = _term(left), _term(right)
    _alike(left, first, right, second)
    return _COMPARISONS[type(operation)](first.expression, second.expression)


def _alike(left: ast.expr, first: _Term, right: ast.expr, second: _Term) -> None:
    if first.kind is not second.kind or first.kind is _Kind.CONDITION:
        raise WhereError(
            f"where: {_shown(left)} is {first.kind} and {_shown(right)} is {second.kind}: "
            "only two numbers or two texts can be compared"
        )


def _is_missing(left: ast.expr, operation: ast.cmpop, right: ast.expr) -> Any:
    if not (isinstance(left, ast.Name) and isinstance(right, ast.Constant) and right.value is None):
        raise WhereError(f"where: `is` and `is not` go with a column and None, got {_shown(left)}")
    missing = _column(left.id).expression.is_null()
    return ~missing if isinstance(operation, ast.IsNot) else missing


def _is_in(left: ast.expr, right: ast.expr) -> Any:
    if isinstance(right, ast.Name) and isinstance(left, ast.Constant) and isinstance(left.value, str):
        return _call("contains", right, left.value).expression
    if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not right.elts:
        raise WhereError(f"where: in wants a list such as ('jpeg', 'png'), got {_shown(right)}")
    tested, members = _term(left), [_term(one) for one in right.elts]
    for node, member in zip(right.elts, members, strict=True):
        _alike(left, tested, node, member)
    return _joined([tested.expression == member.expression for member in members], False).expression


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "contains": pc.match_substring,
    "starts_with": pc.starts_with,
    "ends_with": pc.ends_with,
    "matches": pc.match_substring_regex,
}


def _call(name: str, column: ast.expr, text: str) -> _Term:
    if name not in _FUNCTIONS:
        raise WhereError(f"where: there is no function {name}; allowed: {', '.join(_FUNCTIONS)}")
    tested = _term(column)
    if not tested.column or tested.kind is not _Kind.TEXT:
        raise WhereError(f"where: {name} wants a column of texts, {_shown(column)} is {tested.kind}")
    try:
        _FUNCTIONS[name](pa.array([""]), text)
    except pa.ArrowInvalid as error:
        raise WhereError(f"where: {text!r} is no pattern of RE2: {str(error).splitlines()[0]}") from error
    return _Term(_FUNCTIONS[name](tested.expression, text), _Kind.CONDITION)


def ids_of(corpus: Corpus, where: Where) -> Ids:
    """All of `matching` in one array, 8 bytes an id."""
    return np.concatenate([np.empty(0, np.int64), *matching(corpus, where)])
