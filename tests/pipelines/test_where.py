import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.corpus import Corpus, DatasetInfo
from pipelines.where import Keep, WhereError, ids_of, parse_where
from stages.schemas import ITEMS
from stages.sources.listing import found_rows

_EMPTY = dict.fromkeys(ITEMS.names)
PICTURES: list[dict[str, Any]] = [
    {"uri": "a/tmp.jpg", "format": "jpeg", "width": 2000, "height": 10, "status": "ok"},
    {"uri": "b/7.png", "format": "png", "width": 1024, "height": 2000, "status": "ok", "reused_from": 1},
    {"uri": "c/x.bad", "status": "unreadable", "error": "it ends early"},
    {"uri": "d/y.jpg", "format": "jpeg", "width": 300, "height": 300, "status": "ok"},
]


def _items() -> pa.Table:
    rows = [{**_EMPTY, "image_id": number, **picture} for number, picture in enumerate(PICTURES)]
    return pa.Table.from_pylist(rows, ITEMS)


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("width >= 1024", [0, 1]),
        ("width >= 1024 and format == 'jpeg' and not contains(uri, 'tmp')", []),
        ("width >= 1024 and format == 'jpeg' or contains(uri, 'y')", [0, 3]),
        ("300 < width <= 1024", [1]),
        ("width > height", [0]),
        ("width == 300.0", [3]),
        ("width > -1", [0, 1, 3]),
        ("not width > 1024", [1, 3]),
        ("width != 300", [0, 1]),
        ("format in ('png', 'webp')", [1]),
        ("format not in ['png']", [0, 3]),
        ("not format not in ('png', 'jpeg')", [0, 1, 3]),
        ("width in {300, 1024}", [1, 3]),
        ("format is None", [2]),
        ("reused_from is not None", [1]),
        ("starts_with(uri, 'a/') or ends_with(uri, '.png')", [0, 1]),
        (r"matches(uri, '/\d+\.')", [1]),
        ("'tmp' in uri", [0]),
        ("'tmp' not in uri", [1, 2, 3]),
        ("image_id >= 2\n  and status == 'ok'", [3]),
        (" or ".join(f"width == {number}" for number in range(295, 895)), [3]),
    ],
)
def test_where_keeps_the_rows_that_meet_it(text: str, met: list[int]) -> None:
    where = parse_where(text)

    assert where.kept(_items())["image_id"].to_pylist() == met


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("__import__('os').system('touch owned')", "system"),
        ("uri.upper() == 'A'", "upper"),
        ("[x for x in uri]", "for x in uri"),
        ("(lambda: 1)()", "lambda"),
        ("f'{uri}' == 'a'", "uri"),
        ("uri[0] == 'a'", "uri[0]"),
        ("width + 1 > 2", "width + 1"),
        ("(found := 3) == width", ":="),
        ("contains(uri, 'a', ignore_case=1)", "ignore_case"),
        ("contains(*uri)", "contains(*uri)"),
        ("... == width", "..."),
        ("metadata.upper() == 'A'", "metadata.upper()"),
        ("metadata[0] == 'a'", "metadata[0]"),
        ("metadata[uri] == 'a'", "metadata[uri]"),
        ("uri.metadata == 'a'", "uri.metadata"),
        ("metadata.a['b'].c[:1] == 'a'", "metadata.a['b'].c[:1]"),
    ],
)
def test_where_anything_but_conditions_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WhereError, match="not allowed; allowed: columns") as caught:
        parse_where(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format == jpeg", "no column jpeg .columns: image_id, uri, .*texts are in quotes"),
        ("width == 'wide'", "width is a number and 'wide' is a text"),
        ("width == True", "width is a number and True is a truth value"),
        ("format in ('png', 3)", "format is a text and 3 is a number"),
        ("(width > 1) == (height > 1)", "only two numbers, two texts or"),
        ("width", "must be a condition, width is a number"),
        ("width and height > 1", "width is a number, and/or/not want conditions"),
        ("width is 3", "`is` and `is not` go with a column or metadata and None"),
        ("format in 'jpeg'", "in wants a list such as"),
        ("format in ()", "in wants a list such as"),
        ("contains(width, '1')", "contains wants a column of texts, width is a number"),
        ("like(uri, 'a%')", "no function like; allowed: contains, starts_with, ends_with, matches"),
        ("matches(uri, '[')", "is no pattern of RE2"),
        ("width == 99999999999999999999", "more than 64 bits hold"),
        ("width = 3", "cannot be read at character"),
        ("width >", "cannot be read"),
        ("", "cannot be read"),
        ("width > 1\0", "cannot be read"),
        ("not " * 2400 + "width > 1", "nested too deeply|cannot be read"),
        ("-" * 9000 + "1 == width", "nested too deeply|cannot be read"),
        ("(" * 300 + "width > 1" + ")" * 300, "cannot be read"),
        ("width > 1 or " * 1000 + "width > 2", "at most 10,000 characters"),
        ("metadata.class == 'cat'", r'class is a word of the language, write metadata\["class"\]'),
        ("metadata.flag > True", "True and False go with == and !="),
        ("metadata.size in (1, 'large')", "1 is a number and 'large' is a text"),
        ("True in metadata.tags", "in wants a text or a number, got True"),
        ("(width > 1) == metadata.flag", "width > 1 is a condition"),
        ("True", "must be a condition, True is a truth value"),
        ("metadata.size is 3", "`is` and `is not` go with a column or metadata and None"),
    ],
)
def test_where_that_is_wrong_is_one_line_that_says_what_is_right(text: str, message: str) -> None:
    with pytest.raises(WhereError, match=message) as caught:
        parse_where(text)
    assert "\n" not in str(caught.value)


TOLD: list[dict[str, Any] | None] = [
    {"size": 7, "label": "cat", "flag": True, "tags": ["a", "b"], "where": {"lat": 48.1, "city": "Ulm"}},
    {"size": "large", "label": "dog", "flag": False, "tags": "ab", "odd name": 1, "class": "x", "limit": 7},
    {"size": 9007199254740993, "label": None, "flag": 1, "tags": [1, 2.5, True], "where": 3, "limit": 8},
    {"size": 12.5, "label": "café \U0001f600", "tags": [], "limit": "large", "when": "2021-03-04"},
    {"size": True, "big": 18446744073709551615},
    None,
]


def _told() -> pa.Table:
    rows = [
        {
            **_EMPTY,
            "image_id": number,
            "uri": str(number),
            "width": number,
            "status": "ok",
            "metadata": None if told is None else json.dumps(told),
            "original_caption": None if told is None else f"a {told.get('label')}",
        }
        for number, told in enumerate(TOLD)
    ]
    return pa.Table.from_pylist(rows, ITEMS)


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("metadata.size > 5", [0, 2, 3]),
        ("not metadata.size > 10", [0]),
        ("metadata.size == 9007199254740993", [2]),
        ("metadata.size == 9007199254740992", []),
        ("metadata.size < 9007199254740993", [0, 3]),
        ("metadata.size in (7, 9007199254740993)", [0, 2]),
        ("metadata.big > 9223372036854775807", [4]),
        ("metadata.size == 'large'", [1]),
        ("metadata.size != 'small'", [1]),
        ("metadata.size == True", [4]),
        ("metadata.flag", [0]),
        ("not metadata.flag", [1]),
        ("metadata.flag != True and metadata.label == 'dog'", [1]),
        ("metadata.label is None", [2, 4, 5]),
        ("metadata.label is not None and metadata.size > 7", [3]),
        ("metadata.nothing is None", [0, 1, 2, 3, 4, 5]),
        ("metadata.nothing == 1 or metadata.nothing != 1", []),
        ("metadata is None", [5]),
        ("metadata.where.lat >= 48", [0]),
        ("metadata['where'].city == 'Ulm'", [0]),
        ("metadata['odd name'] == 1", [1]),
        ('metadata["class"] == "x"', [1]),
        ("contains(metadata.label, 'caf')", [3]),
        ("starts_with(metadata.label, 'd') or ends_with(metadata.label, 't')", [0, 1]),
        (r"matches(metadata.label, '^.a')", [0, 3]),
        ("'a' in metadata.tags", [0, 1]),
        ("'a' not in metadata.tags", [2, 3]),
        ("2.5 in metadata.tags", [2]),
        ("1 in metadata.tags", [2]),
        ("metadata.label in ('cat', 'dog') and metadata.size > 1", [0]),
        ("metadata.label not in ('cat',)", [1, 3]),
        ("metadata.size > width", [0, 2, 3]),
        ("metadata.size == metadata.limit", []),
        ("metadata.size != metadata.limit", [2]),
        ("metadata.when < '2022'", [3]),
        ("contains(original_caption, 'a cat')", [0]),
        ("metadata.a.b.c == 1 or metadata.a == 1 or width == 5", [5]),
    ],
)
def test_where_on_metadata_keeps_rows_whose_value_is_of_the_kind_asked_for(text: str, met: list[int]) -> None:
    assert parse_where(text).kept(_told())["image_id"].to_pylist() == met


def test_where_on_metadata_leaves_the_columns_as_they_are() -> None:
    kept = parse_where("metadata.size > 5").kept(_told())
    assert kept.schema == ITEMS


def test_keep_of_a_source_names_what_the_source_says() -> None:
    found = found_rows(
        uri=["a", "b", "c"],
        size=[10, -1, 30],
        mtime_ns=[0, 0, 0],
        metadata=['{"n": 1}', '{"n": 2}', None],
        original_caption=["x", None, "y"],
    )
    for text, wanted in [
        ("metadata.n >= 1", [True, True, False]),
        ("size < 20", [True, False, False]),
        ("original_caption is None or uri == 'c'", [False, True, True]),
    ]:
        assert Keep(text)(found).to_pylist() == wanted


@pytest.mark.parametrize("text", ["width > 3", "container == 'x'", "metadata.n >"])
def test_keep_of_what_a_source_does_not_say_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(WhereError, match=r"^source\.where") as caught:
        Keep(text)
    assert "\n" not in str(caught.value)


def test_ids_of_several_shards_are_those_that_meet_the_condition(tmp_path: Path) -> None:
    corpus = Corpus(str(tmp_path))
    corpus.claim(DatasetInfo.of("items", ITEMS, {"made": "by hand"}))
    for shard in range(2):
        corpus.write_shard("items", shard, _items().slice(shard * 2, 2))

    assert ids_of(corpus, parse_where("width < 2000")).tolist() == [1, 3]
    assert ids_of(corpus, parse_where("width < 2")).tolist() == []
