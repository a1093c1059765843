from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.corpus import Corpus, DatasetInfo
from pipelines.where import WhereError, ids_of, parse_where
from stages.schemas import ITEMS

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

    assert _items().filter(where.expression)["image_id"].to_pylist() == met


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
        ("width == True", "True"),
        ("contains(uri, 'a', ignore_case=1)", "ignore_case"),
        ("contains(*uri)", "contains(*uri)"),
        ("... == width", "..."),
    ],
)
def test_where_anything_but_conditions_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WhereError, match="not allowed; allowed: columns, numbers") as caught:
        parse_where(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format == jpeg", "no column jpeg .columns: image_id, uri, .*texts are in quotes"),
        ("width == 'wide'", "width is a number and 'wide' is a text"),
        ("format in ('png', 3)", "format is a text and 3 is a number"),
        ("(width > 1) == (height > 1)", "only two numbers or two texts"),
        ("width", "must be a condition, width is a number"),
        ("width and height > 1", "width is a number, and/or/not want conditions"),
        ("width is 3", "`is` and `is not` go with a column and None"),
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
    ],
)
def test_where_that_is_wrong_is_one_line_that_says_what_is_right(text: str, message: str) -> None:
    with pytest.raises(WhereError, match=message) as caught:
        parse_where(text)
    assert "\n" not in str(caught.value)


def test_ids_of_several_shards_are_those_that_meet_the_condition(tmp_path: Path) -> None:
    corpus = Corpus(str(tmp_path))
    corpus.claim(DatasetInfo.of("items", ITEMS, {"made": "by hand"}))
    for shard in range(2):
        corpus.write_shard("items", shard, _items().slice(shard * 2, 2))

    assert ids_of(corpus, parse_where("width < 2000")).tolist() == [1, 3]
    assert ids_of(corpus, parse_where("width < 2")).tolist() == []
