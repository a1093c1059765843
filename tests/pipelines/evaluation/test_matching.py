"""Which image or prediction a reference is of, and what is said where it is none."""

import json
from typing import Any

import pyarrow as pa
import pytest

from pipelines.evaluation.formats import EvaluationError
from pipelines.evaluation.matching import (
    Counted,
    MismatchError,
    absent,
    align,
    check,
    match_files,
    match_items,
)
from pipelines.evaluation.predictions import ITEMS, PREDICTIONS
from pipelines.evaluation.references import CAPTION_REFERENCES


def _items(*uris: str, **metadata: list[Any]) -> pa.Table:
    told = [
        json.dumps({name: values[row] for name, values in metadata.items()}) if metadata else None
        for row in range(len(uris))
    ]
    return pa.table([list(range(100, 100 + len(uris))), list(uris), pa.array(told, pa.string())], ITEMS)


def _references(*keys: str, files: list[str] | None = None) -> pa.Table:
    named = pa.nulls(len(keys), pa.string()) if files is None else pa.array(files, pa.string())
    return pa.table([list(keys), named, [["a text"]] * len(keys)], CAPTION_REFERENCES)


def _said(*rows: tuple[str, str | None]) -> pa.Table:
    keys, texts = zip(*rows, strict=True)
    return pa.table([list(keys), pa.array(texts, pa.string())], PREDICTIONS)


@pytest.mark.parametrize(
    ("uris", "keys", "files", "method"),
    [
        (["val2014/COCO_val2014_000000000009.jpg", "x/000000000025.png"], ["25", "9"], None, "coco"),
        (["x/000000000009.png", "y/z_25.png"], ["000025", "09"], None, "coco"),
        (["a/b.jpg", "a/c.jpg"], ["a/c.jpg", "a/b.jpg"], None, "uri"),
        (["a/b.jpg", "a/c.jpg"], ["c.jpg", "b.jpg"], None, "file_name"),
        (["a/b.jpg", "a/c.jpg"], ["2", "1"], ["c.jpg", "b.jpg"], "file_name"),
        (["shards/0.tar/x.jpg", "shards/0.tar/y.jpg"], ["101", "100"], None, "image_id"),
        (["s3://one/b.jpg", "s3://two/b.jpg"], ["s3://two/b.jpg", "s3://one/b.jpg"], None, "uri"),
    ],
)
def test_match_finds_the_way_by_which_most_references_have_an_image(
    uris: list[str], keys: list[str], files: list[str] | None, method: str
) -> None:
    found = match_items(_items(*uris), _references(*keys, files=files))
    assert (found.method, found.rows, found.ambiguous) == (method, [1, 0], ())


def test_match_by_metadata_is_by_the_column_that_was_asked_for_or_one_named_as_an_id() -> None:
    items = _items("q.jpg", "w.jpg", "e.jpg", cocoid=[7, 8, 9], number=["c", "b", "a"])
    assert match_items(items, _references("9", "7")).rows == [2, 0]
    found = match_items(items, _references("a", "c"), "metadata.number")
    assert (found.method, found.rows) == ("metadata.number", [2, 0])
    assert match_items(items, _references("a", "c")).rows == [-1, -1]
    with pytest.raises(EvaluationError, match="key must be one of auto, uri, file_name, coco, image_id"):
        match_items(items, _references("a"), "name")


def test_match_takes_numbers_of_coco_for_no_image_ids_of_the_corpus() -> None:
    items = _items("a.jpg", "b.jpg")
    assert match_items(items, _references("100", "101"), plain=False).rows == [-1, -1]
    assert match_items(items, _references("100", "101"), "image_id", plain=False).rows == [0, 1]


def test_match_of_a_name_that_two_images_have_is_none() -> None:
    found = match_items(_items("a/1.jpg", "b/1.jpg", "b/2.jpg"), _references("1.jpg", "2.jpg", "3.jpg"))
    assert (found.rows, found.ambiguous) == ([-1, 2, -1], (0,))
    counted = Counted()
    absent(counted, ["1.jpg", "2.jpg", "3.jpg"], found)
    _, mismatch = align(_references("1.jpg", "2.jpg", "3.jpg"), "key", _said(("2.jpg", "x")), counted)
    assert [(one.what, one.count, one.first) for one in mismatch.troubles] == [
        ("references without an image", 1, ("3.jpg",)),
        ("references of which several images may be meant", 1, ("1.jpg",)),
    ]
    assert (mismatch.scored, mismatch.references) == (1, 3)


@pytest.mark.parametrize(
    ("keys", "method"),
    [(["9", "25"], "image_id"), (["v/9.jpg", "v/25.jpg"], "file_name"), (["000009", "25"], "coco")],
)
def test_match_of_a_results_file_needs_no_images(keys: list[str], method: str) -> None:
    found = match_files([*keys, "77"], _references("9", "25", files=["9.jpg", "25.jpg"]))
    assert found == (method, ["9", "25", "77"])


def test_align_names_everything_that_is_amiss_and_keeps_the_order_of_the_references() -> None:
    references = _references("a", "b", "c", "d", "e", "f")
    said = _said(
        ("f", "sixth"),
        ("a", "first"),
        ("b", "same"),
        ("b", "same"),
        ("c", "one"),
        ("c", "other"),
        ("d", " \t"),
        ("x", "extra"),
        ("y", "extra"),
        ("x", "extra"),
    )
    rows, mismatch = align(references, "key", said)
    assert list(zip(rows["key"].to_pylist(), rows["prediction"].to_pylist(), strict=True)) == [
        ("a", "first"),
        ("b", "same"),
        ("f", "sixth"),
    ]
    assert {one.what: (one.count, one.first) for one in mismatch.troubles} == {
        "references without a prediction": (1, ("e",)),
        "predictions without a reference": (2, ("x", "y")),
        "predictions that are there more than once, and equal": (2, ("b", "x")),
        "predictions that are there more than once, and differ": (1, ("c",)),
        "empty predictions": (1, ("d",)),
    }
    assert (mismatch.scored, mismatch.references) == (3, 6)
    with pytest.raises(MismatchError, match="3 of 6 references can be scored"):
        check(mismatch, strict=True)
    check(mismatch, strict=False)


def test_align_counts_all_and_lists_the_first_five() -> None:
    references = _references(*map(str, range(1_000)))
    _, mismatch = align(references, "key", _said(("0", "x")))
    (trouble,) = mismatch.troubles
    assert (trouble.count, trouble.first) == (999, ("1", "2", "3", "4", "5"))


def test_check_lets_nothing_to_score_pass_not_even_unstrict() -> None:
    _, mismatch = align(_references("a"), "key", _said(("b", "x")))
    with pytest.raises(MismatchError, match="0 of 1 references"):
        check(mismatch, strict=False)
