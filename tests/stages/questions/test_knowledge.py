import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.questions.knowledge import Knowledge, Term, Terms, load_knowledge


def terms(*names: tuple[str, ...]) -> Terms:
    """The first name is the term, the others its aliases."""
    return Terms(Knowledge(tuple(Term(one, tuple(more), (("a fact", "a.org"),)) for one, *more in names)))


def found(names: Terms, text: str) -> list[str]:
    return [fact["term"] for fact in names.facts(text)]


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        ("a cat.", ["cat"]),
        ("the CAT's tail", ["cat"]),
        ("cattle and concat", []),
        ("cat_1, cat1", []),
        ("a big cat sits", ["big cat"]),
        ("a big\n  cat", ["big cat"]),
        ("a big catalogue", []),
        ("\uff43\uff41\uff54", ["cat"]),
        ("a cat and a cat", ["cat"]),
        ("这是cat吗", ["cat"]),
        ("两只熊猫在吃竹子", ["熊猫"]),
        ("熊猫基地", ["熊猫基地"]),
        ("猫", []),
        ("a C++ book", ["C++"]),
        ("DIE STRASSE", ["straße"]),
        ("", []),
    ],
)
def test_terms_of_a_text_are_whole_words_and_the_longest(text: str, mentioned: list[str]) -> None:
    names = terms(("cat",), ("big cat",), ("熊猫",), ("熊猫基地",), ("C++",), ("straße",))
    assert found(names, text) == mentioned


def test_terms_longest_that_is_no_word_leaves_the_shorter_one() -> None:
    names = terms(("steel",), ("steel cat",))
    assert found(names, "a steel cattle pen") == ["steel"]


def test_terms_by_alias_come_in_order_of_mention_each_once() -> None:
    names = terms(("Eiffel Tower", "Tour Eiffel", "埃菲尔铁塔"), ("Seine", "塞纳河"))
    assert found(names, "塞纳河 and the Tour Eiffel, the eiffel tower, the Seine") == [
        "Seine",
        "Eiffel Tower",
    ]


def test_terms_with_one_alias_are_both_found() -> None:
    assert found(terms(("planet", "Mercury"), ("metal", "mercury")), "Mercury") == ["planet", "metal"]


def test_terms_facts_have_their_sources() -> None:
    names = Terms(Knowledge((Term("cat", (), (("it purrs", "a.org"), ("it eats mice", "b.org"))),)))
    assert names.facts("my cat") == [
        {"term": "cat", "fact": "it purrs", "source": "a.org"},
        {"term": "cat", "fact": "it eats mice", "source": "b.org"},
    ]


def test_terms_fifty_thousand_are_all_found() -> None:
    names = terms(*((f"term {number}",) for number in range(50_000)))
    text = " and ".join(f"term {number}" for number in range(0, 50_000, 50))
    assert found(names, text) == [f"term {number}" for number in range(0, 50_000, 50)]


ENTRIES: list[dict[str, Any]] = [
    {
        "term": "cat",
        "aliases": ["kitty"],
        "facts": ["it purrs", "it eats mice"],
        "sources": ["a.org", "b.org"],
    },
    {"term": "熊猫", "aliases": [], "facts": ["吃竹子", "住在四川"], "sources": ["c.org"]},
]


def written(folder: Path, name: str, entries: Any) -> str:
    file = folder / name
    match file.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(entries), file)
        case ".jsonl":
            file.write_text("\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries), "utf-8")
        case _:
            file.write_text(json.dumps(entries, ensure_ascii=False), "utf-8")
    return str(file)


@pytest.mark.parametrize("name", ["k.parquet", "k.jsonl", "k.yaml"])
def test_load_knowledge_is_the_same_from_every_format(tmp_path: Path, name: str) -> None:
    loaded = load_knowledge(written(tmp_path, name, ENTRIES))
    assert loaded.terms == (
        Term("cat", ("kitty",), (("it purrs", "a.org"), ("it eats mice", "b.org"))),
        Term("熊猫", (), (("吃竹子", "c.org"), ("住在四川", "c.org"))),
    )
    assert loaded.digest == load_knowledge(written(tmp_path, "other.yaml", ENTRIES)).digest


def test_knowledge_digest_changes_with_any_fact(tmp_path: Path) -> None:
    other = [ENTRIES[0], {**ENTRIES[1], "facts": ["吃竹子", "住在北京"]}]
    digests = {load_knowledge(written(tmp_path, "k.yaml", entries)).digest for entries in (ENTRIES, other)}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([], "holds no term"),
        ({"cat": "it purrs"}, "must be a list"),
        (["cat"], "entry 1 must have term, aliases, facts, sources"),
        ([ENTRIES[0], {**ENTRIES[1], "fact": "x"}], "entry 2 must have .* got fact"),
        ([{**ENTRIES[0], "term": " "}], "entry 1: term must be texts"),
        ([{**ENTRIES[0], "aliases": [3]}], "entry 1: aliases must be texts"),
        ([{**ENTRIES[0], "sources": []}], "2 facts and 0 sources"),
        ([{**ENTRIES[0], "facts": []}], "0 facts and 2 sources"),
        ([ENTRIES[0], ENTRIES[0]], "entry 2: the term 'cat' is there twice"),
    ],
)
def test_load_knowledge_bad_file_is_refused_in_one_line(tmp_path: Path, entries: Any, told: str) -> None:
    path = written(tmp_path, "k.yaml", entries)
    with pytest.raises(ValueError, match=told) as caught:
        load_knowledge(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.yaml", "missing.parquet", "k.csv", "bad.jsonl"])
def test_load_knowledge_unreadable_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "bad.jsonl").write_text("{", "utf-8")
    with pytest.raises(ValueError, match=name):
        load_knowledge(str(tmp_path / name))
