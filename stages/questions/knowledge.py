"""Facts about the terms that an answer mentions."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ahocorasick_rs
import pyarrow.parquet as pq

from stages.generators.protocol import clean
from stages.questions.yaml12 import load_yaml

_KEYS = ("term", "aliases", "facts", "sources")
# Scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana, Han; Hangul, for its particles.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\u3005-\u30ff\u3130-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_BOUNDED = re.compile(rf"[^\W{_UNSPACED}]")


@dataclass(frozen=True)
class Term:
    """A term, its other names, and what is known of it: (fact, source) pairs."""

    term: str
    aliases: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Knowledge:
    terms: tuple[Term, ...]

    @cached_property
    def digest(self) -> str:
        """Changes with whatever could change a `knowledge` column; not with the format of the file."""
        plain = [[term.term, term.aliases, term.facts] for term in self.terms]
        return hashlib.sha256(json.dumps(plain, ensure_ascii=False).encode()).hexdigest()


class Terms:
    """Finds the terms of a text: time linear in its length, whatever the number of terms (Aho-Corasick).

    Case and form (NFKC) do not count. A name begins and ends where a word does, but for scripts without
    spaces between words, such as Chinese. Where names overlap the one that begins first is taken, and of
    those that begin together the longest.
    """

    def __init__(self, knowledge: Knowledge) -> None:
        names: dict[str, list[Term]] = {}
        for term in knowledge.terms:
            for name in dict.fromkeys(map(_plain, (term.term, *term.aliases))):
                names.setdefault(name, []).append(term)
        self._terms = list(names.values())
        self._automaton = ahocorasick_rs.AhoCorasick(list(names))

    def facts(self, text: str) -> list[dict[str, str]]:
        """{term, fact, source}: all facts of the terms in the text, each term once, in order of mention."""
        mentioned = {term.term: term for name in self._mentions(_plain(text)) for term in self._terms[name]}
        return [
            {"term": term.term, "fact": fact, "source": source}
            for term in mentioned.values()
            for fact, source in term.facts
        ]

    def _mentions(self, text: str) -> Iterator[int]:
        found = self._automaton.find_matches_as_indexes(text, overlapping=True)
        whole = [match for match in found if _is_word(text, match[1], match[2])]
        end = 0
        for name, start, stop in sorted(whole, key=lambda match: (match[1], -match[2])):
            if start >= end:
                yield name
                end = stop


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _is_word(text: str, start: int, stop: int) -> bool:
    """Whether no word goes on across either end."""
    ends = (text[start - 1 : start + 1] if start else "", text[stop - 1 : stop + 1])
    return all(len(_BOUNDED.findall(pair)) < 2 for pair in ends)


def load_knowledge(path: str) -> Knowledge:
    """Terms from a .yaml, .yml, .jsonl or .parquet file, one entry a term.

    `term`: its name; `aliases`: others; `facts`: one text or more; `sources`: one for all facts, or one for
    each. Raises: ValueError, one line that names the file, the entry and what is allowed.
    """
    file = Path(path)
    try:
        entries = _entries(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"knowledge {path} cannot be read: {_line(error)}") from error
    terms: dict[str, Term] = {}
    for number, entry in entries:
        where = f"knowledge {path}, entry {number}"
        term = _term(where, entry)
        if terms.setdefault(term.term, term) is not term:
            raise ValueError(f"{where}: the term {term.term!r} is there twice")
    if not terms:
        raise ValueError(f"knowledge {path} holds no term")
    return Knowledge(tuple(terms.values()))


def _entries(file: Path) -> Sequence[tuple[int, Any]]:
    """Raises: OSError, ValueError."""
    match file.suffix:
        case ".parquet":
            loaded: Any = pq.read_table(file).to_pylist()
        case ".jsonl":
            lines = file.read_text("utf-8-sig").split("\n")
            return [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()]
        case ".yaml" | ".yml":
            loaded = load_yaml(file.read_text("utf-8-sig"))
        case _:
            raise ValueError("it must be a .yaml, .yml, .jsonl or .parquet file")
    if not isinstance(loaded, list):
        raise ValueError("it must be a list of terms")
    return list(enumerate(loaded, 1))


def _term(where: str, entry: Any) -> Term:
    if not isinstance(entry, Mapping) or not set(entry) <= set(_KEYS):
        got = sorted(map(str, set(entry) - set(_KEYS)))[0] if isinstance(entry, Mapping) else repr(entry)
        raise ValueError(f"{where} must have {', '.join(_KEYS)}, got {got}")
    term, *names = _texts(where, "term", [entry.get("term")]) + _texts(where, "aliases", entry.get("aliases"))
    facts, sources = (_texts(where, key, entry.get(key)) for key in ("facts", "sources"))
    if not facts or len(sources) not in (1, len(facts)):
        raise ValueError(
            f"{where}: facts must be one or more, and sources one for all or one for each, "
            f"got {len(facts)} facts and {len(sources)} sources"
        )
    pairs = zip(facts, sources * len(facts) if len(sources) == 1 else sources, strict=True)
    return Term(term, tuple(names), tuple(pairs))


def _texts(where: str, key: str, values: Any) -> list[str]:
    """One text may stand without a list around it."""
    texts = [values] if isinstance(values, str) else [] if values is None else values
    if not isinstance(texts, list) or not all(isinstance(one, str) and clean(one) for one in texts):
        raise ValueError(f"{where}: {key} must be texts that are not empty, got {values!r}")
    return [clean(one) for one in texts]


def _line(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split())
