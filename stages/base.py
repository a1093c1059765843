"""The stage contract, and how pixels travel between stages."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Image: TypeAlias = npt.NDArray[np.uint8]
"""RGB pixels, uint8 [H, W, 3]."""

VIEW = pa.struct(
    [
        pa.field("pixels", pa.large_binary(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
    ]
)
"""One resized picture: H*W*3 RGB bytes, row by row."""


_NOTES = b"darkroom.notes"


class Stage(Protocol):
    """Rows in, the same rows in the same order out, columns added, and notes in the schema's metadata.

    The result does not depend on where a batch was cut. Expected bad data becomes a `status`;
    everything else raises. Construction is set-up: it loads models and runs in the worker.
    """

    def __call__(self, shard: pa.Table, /) -> pa.Table: ...


def with_notes(shard: pa.Table, notes: Sequence[str]) -> pa.Table:
    """The table with lines that a person should not miss, which replace those it has."""
    return shard.replace_schema_metadata({**(shard.schema.metadata or {}), _NOTES: json.dumps(list(notes))})


def notes_of(shard: pa.Table) -> list[str]:
    notes: list[str] = json.loads((shard.schema.metadata or {}).get(_NOTES, b"[]"))
    return notes


@runtime_checkable
class ReportsRows(Protocol):
    """A stage that says which row it is at, so that its process may die of one and the row be known."""

    def report_rows(self, at: Callable[[int | None], None]) -> None:
        """Has it call `at(row)` before it touches the bytes of a row, and `at(None)` after the last one."""


StageFactory: TypeAlias = Callable[[], Stage]
"""Makes a stage where it runs; travels to workers, so it holds configs and paths, never weights."""


def view_column(name: str) -> str:
    """The column that holds the view `name` of every image: type `VIEW`, null where the item is not `ok`."""
    return f"view:{name}"


def pack_views(images: Sequence[Image | None]) -> pa.Array:
    """Images as a `VIEW` array; the pixels are copied once."""
    mask = np.array([image is None for image in images], dtype=bool)
    sizes = np.array([0 if image is None else image.nbytes for image in images], dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    pixels = np.empty(int(offsets[-1]), dtype=np.uint8)
    for image, start, size in zip(images, offsets, sizes, strict=False):
        if image is not None:
            pixels[start : start + size] = image.reshape(-1)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(pixels)]
    binary = pa.Array.from_buffers(pa.large_binary(), len(images), buffers)
    sides = [
        pa.array([0 if image is None else image.shape[axis] for image in images], pa.int32())
        for axis in (0, 1)
    ]
    return pa.StructArray.from_arrays([binary, *sides], fields=list(VIEW), mask=pa.array(mask))


def unpack_views(shard: pa.Table, name: str) -> list[Image | None]:
    """The view `name` of every row as read-only arrays that share the table's memory; None where null."""
    images: list[Image | None] = []
    for chunk in shard.column(view_column(name)).chunks:
        images.extend(_unpack_chunk(chunk))
    return images


def _unpack_chunk(chunk: Any) -> list[Image | None]:
    valid = chunk.is_valid().to_pylist()
    heights, widths = (chunk.field(side).to_pylist() for side in ("height", "width"))
    return [
        np.frombuffer(pixels.as_buffer(), dtype=np.uint8).reshape(height, width, 3) if ok else None
        for ok, pixels, height, width in zip(valid, chunk.field("pixels"), heights, widths, strict=True)
    ]
