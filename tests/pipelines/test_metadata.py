"""What metadata says as a whole: its keys, and whether anything is said under a name."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.changes import Change, gone, record
from pipelines.corpus import Corpus, write_row_groups
from pipelines.facts import MetadataKey
from pipelines.metadata import Keys, lacking, tells_of_items, told_parts, told_values
from stages import schemas
from stages.schemas import PLAN, image_id
from stages.sources.listing import Listing, collect, found_rows
from tests.pipelines.small_corpus import info_of


def _told(*objects: object, caption: str | None = None) -> pa.Table:
    texts = [None if one is None else json.dumps(one) for one in objects]
    return pa.table(
        {
            "original_caption": pa.array([caption] * len(texts), pa.string()),
            "metadata": pa.array(texts, pa.string()),
        }
    )


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        (["a", "b"], []),
        (["a", "c"], ["metadata.c"]),
        (["größe", "a.deep"], []),
        (["de", "q"], ["metadata.de", "metadata.q"]),
        (['odd "name"'], []),
    ],
)
def test_lacking_names_what_no_row_says(names: list[str], absent: list[str]) -> None:
    parts = [_told(None, {"a": {"deep": 1}}), _told({"b": None, "größe": 3, 'odd "name"': 1})]
    assert lacking(parts, False, names) == absent
    assert lacking(parts, True, names) == ["original_caption", *absent]
    assert lacking([*parts, _told(None, caption="x")], True, names) == absent


def test_told_parts_are_of_the_listing_and_of_the_plan(tmp_path: Path) -> None:
    corpus = Corpus(str(tmp_path))
    row = {**dict.fromkeys(PLAN.names), "image_id": 0, "uri": "a", "size": 1, "mtime_ns": 1, "metadata": "{}"}
    write_row_groups(corpus, [pa.Table.from_pylist([row], PLAN)], "plan", "plan-000001.parquet")
    found = found_rows(uri=["b", "c"], size=[1, 1], mtime_ns=[1, 1], original_caption=["seen", None])
    rows, details, _ = collect([found])
    parts = list(told_parts(corpus, Listing(rows, details)))
    assert [part.to_pylist() for part in parts] == [
        [{"original_caption": "seen", "metadata": None}],
        [{"original_caption": None, "metadata": "{}"}],
    ]


def test_keys_are_counted_by_the_types_of_their_values() -> None:
    keys = Keys()
    keys.add(['{"a": 1, "b": null}', '{"a": "x", "c": [1]}', None, '{"a": 2.5, "c": {}}', '{"d": true}'])
    assert keys.counted() == (
        MetadataKey("a", {"number": 2, "text": 1}),
        MetadataKey("c", {"list": 1, "object": 1}),
        MetadataKey("d", {"truth value": 1}),
        MetadataKey("b", {}),
    )


def test_corpus_tells_of_items_that_are_not_gone_and_says_how_many_it_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Corpus(str(tmp_path))
    corpus.claim(info_of("items", schemas.ITEMS))
    plan = []
    for shard in range(4):
        rows = [
            {
                **dict.fromkeys(schemas.ITEMS.names),
                **{"image_id": image_id(shard, row), "uri": f"{shard}{row}", "status": "ok"},
                **{"original_caption": "x" if row else None, "metadata": json.dumps({"k": row})},
            }
            for row in range(3)
        ]
        corpus.write_shard("items", shard, pa.Table.from_pylist(rows, schemas.ITEMS))
        plan.append(pa.Table.from_pylist([{**row, "size": 1, "mtime_ns": 1} for row in rows], PLAN))
    write_row_groups(corpus, plan, "plan", "plan-000001.parquet")
    record(corpus, gone([image_id(0, 0)], Change.DELETED))
    told = tells_of_items(corpus)
    assert told is not None
    assert (told.items, told.looked_at, told.captions) == (11, 11, 8)
    assert told.keys == (MetadataKey("k", {"number": 11}),)
    monkeypatch.setattr("pipelines.metadata.SHARD_ROWS", 1 << 15)
    some = tells_of_items(corpus)
    assert some is not None
    assert (some.items, some.looked_at) == (11, 5)


def test_values_for_a_page_are_few_short_and_plain() -> None:
    told = {"long": "x" * 500, "nested": {"a": 1}, "list": [1], "none": None, "n": 7}
    told |= {f"k{number}": number for number in range(20)}
    shown = told_values(json.dumps(told), ["nested.a", "list"])
    assert [(one.name, one.value) for one in shown[:2]] == [("nested.a", "1"), ("list", "[1]")]
    assert [one.name for one in shown[2:]] == ["long", "n", "k0", "k1"]
    assert len(shown[2].value) == 80
    assert told_values(None) == ()
