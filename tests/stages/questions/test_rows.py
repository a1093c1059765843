from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stages.base import pack_views, view_column
from stages.questions.rows import Reads, read_rows
from stages.schemas import CAPTION_COLUMN, embedding_column

PICTURE = np.zeros((2, 3, 3), np.uint8)


def shard(**columns: pa.Array) -> pa.Table:
    base = {
        "status": pa.array(["ok", "empty"]),
        "error": pa.array([None, "no bytes"]),
        view_column("v"): pack_views([PICTURE, None]),
    }
    return pa.table({**base, **columns})


def captions(*values: tuple[str, str] | None) -> pa.Array:
    return pa.array([one and {"caption": one[0], "status": one[1]} for one in values], CAPTION_COLUMN)


def test_read_rows_has_pictures_and_outcomes() -> None:
    first, second = read_rows(shard(), Reads("v"))
    assert first.image is not None
    assert first.image.shape == PICTURE.shape
    assert (second.image, second.status, second.error) == (None, "empty", "no bytes")


def test_read_rows_values_are_those_that_are_there() -> None:
    table = shard(
        caption=captions(("a cat", "ok"), ("I cannot say", "refused")),
        tags=pa.array([["cat", "grass"], []], pa.list_(pa.string())),
        **{"text:ocr": pa.array(["STOP", " "]), "metadata": pa.array(['{"sku": 7, "x": null}', None])},
    )
    reads = Reads("v", ("caption", "tags", "text:ocr", "metadata"), ("sku",))
    assert [row.values for row in read_rows(table, reads)] == [
        {"caption": "a cat", "tags": "cat, grass", "ocr": "STOP", "metadata.sku": "7"},
        {"tags": ""},
    ]


def test_read_rows_takes_no_column_that_is_not_asked_for() -> None:
    """A night that makes captions has them in the stream; one that only answers does not."""
    asked = pa.array([[{"name": None, "question": "q"}], []])
    table = shard(caption=captions(("a cat", "ok"), None), asked=asked)
    assert [(row.values, list(row.asked)) for row in read_rows(table, Reads("v"))] == [({}, []), ({}, [])]


def test_read_rows_questions_groups_guests_and_vectors() -> None:
    table = shard(
        image_id=pa.array([5, 6]),
        asked=pa.array([[{"name": "n", "question": "q"}], None]),
        group=pa.array([[5, 6], None], pa.list_(pa.int64())),
        guest=pa.array([False, True]),
        embedding=pa.array(
            [{"embedding": [0.5, 1.0], "status": "ok"}, {"status": "empty"}], embedding_column(2)
        ),
    )
    first, second = read_rows(table, Reads("v", ("asked", "group", "embedding")))
    assert (first.image_id, first.asked, first.group, first.guest) == (5, [("n", "q")], [5, 6], False)
    assert first.embedding is not None
    assert first.embedding.tolist() == [0.5, 1.0]
    assert (second.asked, second.group, second.guest, second.embedding) == ([], None, True, None)


@pytest.mark.parametrize(
    ("reads", "told"),
    [
        (Reads("v", ("caption",)), "need the column caption"),
    ],
)
def test_read_rows_without_what_is_needed_is_an_error(reads: Reads, told: str) -> None:
    metadata: list[dict[str, Any]] = [{"a": 1, "b": 2}] * 2
    with pytest.raises(ValueError, match=told):
        read_rows(shard(metadata=pa.array(metadata)), reads)
