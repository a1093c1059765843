"""Answers held to a JSON schema: only tokens that can still become a valid text are let through."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stages.generators.protocol import GenerationError

if TYPE_CHECKING:
    import torch

# As `json.dumps` writes. With free white space a model may write nothing else until its text is cut.
_LAYOUT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammars:
    """The schemas of one model's texts, each compiled once, by llguidance."""

    def __init__(self, tokenizer: Any, ends: frozenset[int]) -> None:
        self._tokenizer, self._ends = tokenizer, sorted(ends)
        self._compile = functools.lru_cache(maxsize=64)(self._compiled)

    def follow(self, schemas: Sequence[str | None]) -> "Grammar | None":
        """One a row; nothing where no row has any. Raises: GenerationError for a schema that is none."""
        if not any(schemas):
            return None
        if not self._ends:
            raise GenerationError("a model whose texts have no end cannot be held to a JSON schema")
        matchers = [self._compile(schema).deep_copy() if schema else None for schema in schemas]
        return Grammar(matchers, self._ends)

    @functools.cached_property
    def _vocabulary(self) -> Any:
        from llguidance.hf import from_tokenizer

        try:
            return from_tokenizer(self._tokenizer, eos_token=self._ends)
        except ValueError as error:
            raise GenerationError(
                f"this model's tokenizer cannot be held to a JSON schema: {error}"
            ) from error

    def _compiled(self, schema: str) -> Any:
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_LAYOUT)
        except ValueError as error:
            raise _refused(schema, str(error)) from error
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0)
        if matcher.is_error():
            raise _refused(schema, matcher.get_error())
        return matcher


class Grammar:
    """Where each text of a batch stands; rows without a schema are free."""

    def __init__(self, matchers: Sequence[Any | None], ends: Sequence[int]) -> None:
        self._matchers, self._ends = matchers, list(ends)

    def allowed(self, scores: "torch.Tensor") -> "torch.Tensor":
        """float [rows, vocabulary], with minus infinity at what would break a row's schema."""
        import torch

        free = torch.ones(scores.shape, dtype=torch.bool)
        for row, matcher in zip(free, self._matchers, strict=True):
            if matcher is not None:
                self._fill(row, matcher)
        return scores.masked_fill(~free.to(scores.device), float("-inf"))

    def advance(self, tokens: Sequence[int]) -> None:
        """The tokens that were chosen, one a row; what comes after a text's end says nothing."""
        for matcher, token in zip(self._matchers, tokens, strict=True):
            if matcher is not None and not matcher.is_stopped() and not matcher.consume_token(token):
                raise GenerationError(f"a token that the schema forbids was chosen: {matcher.get_error()}")

    def _fill(self, row: "torch.Tensor", matcher: Any) -> None:
        import numpy as np
        import torch

        row.fill_(False)
        if matcher.is_stopped():
            row[self._ends] = True
            return
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        known = torch.from_numpy(np.unpackbits(bits, count=min(len(row), 8 * len(bits)), bitorder="little"))
        row[: len(known)] = known.bool()


def _refused(schema: str, why: str) -> GenerationError:
    lines = why.strip().splitlines() or ["no reason given"]
    return GenerationError(f"answers cannot be held to the schema {schema[:80]!r}: {lines[0]}")
