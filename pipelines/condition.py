"""A condition out of a text that can do nothing else: an expression of Arrow over columns and metadata.

The text is parsed by Python and walked through; what is not named here is refused, and nothing is run.
As in SQL, a comparison with a value that is missing is neither true nor false, and neither is its `not`.
"""

import ast
import keyword
import operator
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.terms import (
    KINDS,
    Kind,
    Term,
    WhereError,
    check_alike,
    is_large,
    join,
    number_term,
    shown,
)
from stages.told import Value, ValueKind

_ALLOWED = (
    'allowed: columns, metadata.NAME, metadata["odd name"], numbers, texts in quotes, True, False, '
    "== != < <= > >=, in, not in, is None, and, or, not, contains, starts_with, ends_with, matches"
)
_LONGEST = 10_000
_METADATA = "metadata"
_KEYWORD = re.compile(rf"\bmetadata(?:\.\w+)*\.({'|'.join(keyword.kwlist)})\b")


@dataclass(frozen=True)
class Condition:
    """`expression`: of `pyarrow.compute`, over `columns` and columns that have the names of `values`."""

    expression: Any
    columns: tuple[str, ...]
    values: tuple[Value, ...] = ()


def parse_condition(text: str, columns: pa.Schema) -> Condition:
    """`columns`: those that may be named; metadata where `metadata` is one of them. Raises: WhereError."""
    parsed, reader = _parse(text), _Reader(columns)
    try:
        term = reader.term(parsed.body)
        if term.kind is Kind.METADATA:
            term = Term(reader.value(term, Kind.BOOLEAN), Kind.CONDITION)
    except RecursionError as error:
        raise WhereError("where is nested too deeply") from error
    if term.kind is not Kind.CONDITION:
        raise WhereError(f"where must be a condition, {shown(parsed)} is {term.kind}")
    named = tuple(name for name in columns.names if name in reader.columns)
    return Condition(term.expression, named, tuple(reader.values.values()))


def _parse(text: str) -> ast.Expression:
    if len(text) > _LONGEST:
        raise WhereError(f"where must be at most {_LONGEST:,} characters long, got {len(text):,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of `\d` in a text, which is what a pattern wants
            return ast.parse(text.strip().replace("\n", " "), mode="eval")
    except SyntaxError as error:
        at = f" at character {error.offset}" if error.offset else ""
        word = _KEYWORD.search(text)
        hint = f'; {word[1]} is a word of the language, write metadata["{word[1]}"]' if word else ""
        raise WhereError(f"where cannot be read{at}: {error.msg}{hint}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise WhereError(f"where cannot be read: {error}") from error


_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "contains": pc.match_substring,
    "starts_with": pc.starts_with,
    "ends_with": pc.ends_with,
    "matches": pc.match_substring_regex,
}


class _Reader:
    """Walks a condition, and notes the columns and the values of metadata that it names."""

    def __init__(self, allowed: pa.Schema) -> None:
        self._allowed = allowed
        self.columns: set[str] = set()
        self.values: dict[str, Value] = {}

    def term(self, node: ast.expr) -> Term:
        match node:
            case ast.Name(id=name):
                return self._column(name)
            case ast.Attribute() | ast.Subscript():
                return self._metadata(node)
            case ast.Constant(value=str() as text):
                return Term(pc.scalar(text), Kind.TEXT, constant=text)
            case ast.Constant(value=bool() as truth):
                return Term(pc.scalar(truth), Kind.BOOLEAN)
            case ast.Constant(value=int() | float() as number):
                return number_term(number)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return number_term(-number)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Term(~self._condition(operand), Kind.CONDITION)
            case ast.BoolOp(op=operation, values=values):
                return join([self._condition(value) for value in values], isinstance(operation, ast.And))
            case ast.Compare(left=left, ops=operations, comparators=others):
                pairs = zip([left, *others[:-1]], operations, others, strict=True)
                return join([self._comparison(*pair) for pair in pairs], True)
            case ast.Call(
                func=ast.Name(id=name), args=[column, ast.Constant(value=str() as text)], keywords=[]
            ):
                return Term(self._call(name, column, text), Kind.CONDITION)
        raise _not_allowed(node)

    def value(self, term: Term, kind: Kind, exact: bool = False) -> Any:
        """The expression of a term; of metadata as values of this kind, `exact`: the integers among them."""
        if term.kind is not Kind.METADATA:
            # Arrow compares a float64 with no integer that it cannot hold.
            return term.expression if exact or not is_large(term) else pc.scalar(float(term.constant))
        return self._noted(Value(term.path, ValueKind.INTEGER if exact else KINDS[kind]))

    def _noted(self, value: Value) -> Any:
        self.values[value.name] = value
        self.columns.add(_METADATA)
        return pc.field(value.name)

    def _column(self, name: str) -> Term:
        if name not in self._allowed.names:
            raise WhereError(
                f"where: there is no column {name} (columns: {', '.join(self._allowed.names)}); "
                "texts are in quotes"
            )
        self.columns.add(name)
        text = pa.types.is_string(self._allowed.field(name).type)
        return Term(pc.field(name), Kind.TEXT if text else Kind.NUMBER, column=True)

    def _metadata(self, node: ast.expr) -> Term:
        path, inner = [], node
        while not isinstance(inner, ast.Name):
            match inner:
                case ast.Attribute(value=outer, attr=key):
                    path.append(key)
                case ast.Subscript(value=outer, slice=ast.Constant(value=str() as key)):
                    path.append(key)
                case _:
                    raise _not_allowed(node)
            inner = outer
        if inner.id != _METADATA or _METADATA not in self._allowed.names:
            raise _not_allowed(node)
        return Term(None, Kind.METADATA, path=tuple(reversed(path)))

    def _condition(self, node: ast.expr) -> Any:
        term = self.term(node)
        if term.kind not in (Kind.CONDITION, Kind.METADATA):
            raise WhereError(f"where: {shown(node)} is {term.kind}, and/or/not want conditions")
        return self.value(term, Kind.BOOLEAN)

    def _comparison(self, left: ast.expr, operation: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(operation, ast.Is | ast.IsNot):
            missing = self._is_missing(left, right)
            return ~missing if isinstance(operation, ast.IsNot) else missing
        if isinstance(operation, ast.In | ast.NotIn):
            found = self._is_in(left, right)
            return ~found if isinstance(operation, ast.NotIn) else found
        first, second = self.term(left), self.term(right)
        check_alike(left, first, right, second)
        return self._compared(first, operation, second)

    def _compared(self, first: Term, operation: ast.cmpop, second: Term) -> Any:
        """Two values of metadata are compared as what both are; a large integer exactly."""
        compare = _COMPARISONS[type(operation)]
        kinds = [kind for kind in (first.kind, second.kind) if kind is not Kind.METADATA]
        ordered = not isinstance(operation, ast.Eq | ast.NotEq)
        if Kind.BOOLEAN in kinds and ordered:
            raise WhereError("where: True and False go with == and !=")
        if len(kinds) == 2:
            return compare(first.expression, second.expression)
        either = [Kind.NUMBER, Kind.TEXT, *([] if ordered else [Kind.BOOLEAN])]
        ways = [(kind, False) for kind in kinds or either]
        if is_large(first) or is_large(second):
            ways.insert(0, (Kind.NUMBER, True))
        found = [compare(self.value(first, *way), self.value(second, *way)) for way in ways]
        return found[0] if len(found) == 1 else pc.coalesce(*found)

    def _is_missing(self, left: ast.expr, right: ast.expr) -> Any:
        named = isinstance(left, ast.Name | ast.Attribute | ast.Subscript)
        if not (named and isinstance(right, ast.Constant) and right.value is None):
            raise WhereError(
                f"where: `is` and `is not` go with a column or metadata and None, got {shown(left)}"
            )
        term = self.term(left)
        if term.kind is Kind.METADATA:
            return ~self._noted(Value(term.path, ValueKind.PRESENCE))
        return term.expression.is_null()

    def _is_in(self, left: ast.expr, right: ast.expr) -> Any:
        if isinstance(left, ast.Constant) and isinstance(right, ast.Name | ast.Attribute | ast.Subscript):
            return self._is_part_of(left, right)
        if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not right.elts:
            raise WhereError(f"where: in wants a list such as ('jpeg', 'png'), got {shown(right)}")
        tested, members = self.term(left), [self.term(one) for one in right.elts]
        for node, member in zip(right.elts, members, strict=True):
            check_alike(left, tested, node, member)
            check_alike(right.elts[0], members[0], node, member)
        return join([self._compared(tested, ast.Eq(), one) for one in members], False).expression

    def _is_part_of(self, left: ast.Constant, right: ast.expr) -> Any:
        """A text of a text, or a member of a list in metadata."""
        part, whole = self.term(left), self.term(right)
        if whole.kind is not Kind.METADATA:
            if part.kind is not Kind.TEXT:
                raise WhereError(f"where: in wants a list such as ('jpeg', 'png'), got {shown(right)}")
            return self._call("contains", right, part.constant)
        if part.constant is None:
            raise WhereError(f"where: in wants a text or a number, got {shown(left)}")
        return self._noted(Value(whole.path, ValueKind.MEMBER, part.constant))

    def _call(self, name: str, column: ast.expr, text: str) -> Any:
        if name not in _FUNCTIONS:
            raise WhereError(f"where: there is no function {name}; allowed: {', '.join(_FUNCTIONS)}")
        tested = self.term(column)
        if tested.kind is not Kind.METADATA and not (tested.column and tested.kind is Kind.TEXT):
            raise WhereError(f"where: {name} wants a column of texts, {shown(column)} is {tested.kind}")
        try:
            _FUNCTIONS[name](pa.array([""]), text)
        except pa.ArrowInvalid as error:
            raise WhereError(f"where: {text!r} is no pattern of RE2: {str(error).splitlines()[0]}") from error
        return _FUNCTIONS[name](self.value(tested, Kind.TEXT), text)


def _not_allowed(node: ast.expr) -> WhereError:
    return WhereError(f"where: {shown(node)} is not allowed; {_ALLOWED}")
