"""Image files -> upright RGB pixels, resized to every view that later stages ask for."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import pyarrow as pa
import pyarrow.compute as pc

from stages import resize
from stages.base import Image, pack_views, view_column
from stages.codecs import pixels
from stages.codecs.errors import BadImageError
from stages.codecs.header import Header, sniff
from stages.codecs.memory import memory_limit
from stages.digests import Digests
from stages.resize import ResizeConfig, plan_resize
from stages.schemas import PLACE, TOLD, Status

VERSION = 1


@dataclass(frozen=True)
class DecodeConfig:
    """What counts as an image. Raises ValueError."""

    # Room for the 102 megapixels of medium-format cameras; 360 MB as RGB.
    max_pixels: int = 120_000_000
    max_bytes: int = 256 * 2**20
    restore_jpeg_end: bool = True  # accept a JPEG that lacks nothing but its end marker

    def __post_init__(self) -> None:
        for key in ("max_pixels", "max_bytes"):
            if getattr(self, key) < 1:
                raise ValueError(f"decode.{key} must be at least 1, got {getattr(self, key)}")


@dataclass(frozen=True)
class DecodeRun:
    """How decoding runs; never changes a pixel. Raises ValueError."""

    # Address space that decoding may take on top of what the process has when a shard starts; None: no limit.
    # The worst picture within max_pixels, 16-bit RGBA, takes 960 MB before and 480 MB after conversion.
    memory_limit_mb: int | None = 4096
    # What one image may take; after that the process is ended, and the image tried once more. The slowest
    # picture within max_pixels, JPEG 2000, takes a core 14 s.
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if self.memory_limit_mb is not None and self.memory_limit_mb < 1:
            raise ValueError(f"decode.memory_limit_mb must be at least 1, got {self.memory_limit_mb}")
        if not self.timeout_s > 0:
            raise ValueError(f"decode.timeout_s must be more than 0, got {self.timeout_s}")


class _Row(NamedTuple):
    data: bytes | None
    status: str
    error: str | None
    expected_sha256: str | None


@dataclass
class _Item:
    status: str
    error: str | None
    sha256: str | None = None
    format: str | None = None
    header: Header | None = None
    views: dict[ResizeConfig, Image] = field(default_factory=dict)


_NOTHING = Digests()

# What nobody needs once a file was read.
_READ = ("bytes", "expected_sha256", "size", "mtime_ns", *PLACE.names)


class DecodeImages:
    """(rows with `bytes`) -> the same rows without, + sha256, format, sizes, and a `view:NAME` each.

    Columns in: image_id, uri, bytes (large_binary; null where the source failed), status, error, and
    optionally expected_sha256: where the bytes have another one the row becomes `changed`.
    Where the bytes are among `forgotten` the row becomes `forgotten`, and says nothing of them, nor what the
    source says of the item.
    Columns out: image_id, uri, sha256 (hex, of the bytes), format, original_height, original_width
    (as stored), height, width (as displayed), status, error, then the views, and whatever else came in. What
    a file is found to be stays in the row also where its status is not `ok`. A bad image costs no other.
    """

    def __init__(
        self,
        config: DecodeConfig,
        run: DecodeRun,
        views: Mapping[str, ResizeConfig],
        forgotten: Digests = _NOTHING,
    ) -> None:
        self._config = config
        self._forgotten = forgotten
        self._run = run
        self._views = dict(views)
        self._sizes = tuple(dict.fromkeys(self._views.values()))
        self._at: Callable[[int | None], None] = lambda _: None

    def report_rows(self, at: Callable[[int | None], None]) -> None:
        self._at = at

    def __call__(self, shard: pa.Table) -> pa.Table:
        with _one_thread(), memory_limit(self._run.memory_limit_mb):
            items = [self._item(index, row) for index, row in enumerate(_rows(shard))]
            self._at(None)
        return self._table(shard, items)

    def _item(self, index: int, row: _Row) -> _Item:
        item = _Item(row.status, row.error)
        if row.status != Status.OK or row.data is None:
            return item
        self._at(index)
        try:
            self._develop(row.data, row.expected_sha256, item)
        except BadImageError as refusal:
            item.status, item.error, item.views = refusal.status.value, str(refusal), {}
        except (MemoryError, cv2.error) as error:
            if isinstance(error, cv2.error) and not pixels.out_of_memory(error):
                raise
            text = "decoding takes more memory than allowed"
            item.status, item.error, item.views = Status.TOO_LARGE.value, text, {}
        return item

    def _develop(self, data: bytes, expected_sha256: str | None, item: _Item) -> None:
        if not data:
            raise BadImageError(Status.EMPTY, "the file is empty")
        digest = hashlib.sha256(data)
        if self._forgotten and digest.digest() in self._forgotten:
            raise BadImageError(Status.FORGOTTEN, "the bytes were taken down")
        item.sha256 = digest.hexdigest()
        if expected_sha256 not in (None, item.sha256):
            raise BadImageError(Status.CHANGED, "the file is no longer the one that items describes")
        if len(data) > self._config.max_bytes:
            raise BadImageError(
                Status.TOO_LARGE, f"{len(data)} bytes are more than the {self._config.max_bytes} allowed"
            )
        item.format = sniff(data)
        header = item.header = pixels.read_header(data)
        if header.height * header.width > self._config.max_pixels:
            size = f"{header.height} x {header.width} pixels"
            raise BadImageError(
                Status.TOO_LARGE, f"{size} are more than the {self._config.max_pixels} allowed"
            )
        for reduction, configs in self._reductions(header).items():
            image = pixels.decode(data, header, reduction, self._config.restore_jpeg_end)
            for config in configs:
                item.views[config] = resize.view(image, header.upright, config, reduction)

    def _reductions(self, header: Header) -> dict[int, list[ResizeConfig]]:
        """The views by the fraction at which a JPEG is decoded for them.

        Each view chooses for itself: one choice for all of them would make its pixels depend on which
        other views a run asks for. Most pictures are too small for any choice and are decoded once.
        """
        if header.format != "jpeg" or not self._sizes:
            return {1: list(self._sizes)}
        chosen: dict[int, list[ResizeConfig]] = {}
        for config in self._sizes:
            chosen.setdefault(plan_resize(*header.upright, config).reduction, []).append(config)
        return chosen

    def _table(self, shard: pa.Table, items: list[_Item]) -> pa.Table:
        found = [item.header for item in items]
        columns: dict[str, Any] = {
            "image_id": shard.column("image_id"),
            "uri": shard.column("uri"),
            "sha256": pa.array([item.sha256 for item in items], pa.string()),
            "format": pa.array([item.format for item in items], pa.string()),
            "original_height": pa.array([header and header.height for header in found], pa.int32()),
            "original_width": pa.array([header and header.width for header in found], pa.int32()),
            "height": pa.array([header and header.upright[0] for header in found], pa.int32()),
            "width": pa.array([header and header.upright[1] for header in found], pa.int32()),
            "status": pa.array([item.status for item in items], pa.string()),
            "error": pa.array([item.error for item in items], pa.string()),
        }
        packed = {config: pack_views([item.views.get(config) for item in items]) for config in self._sizes}
        for name, config in self._views.items():
            columns[view_column(name)] = packed[config]
        others = {
            name: shard.column(name)
            for name in shard.column_names
            if name not in _READ and name not in columns
        }
        stands = pc.not_equal(columns["status"], Status.FORGOTTEN.value)
        for name in others.keys() & set(TOLD.names):
            others[name] = pc.if_else(stands, others[name], None)
        return pa.table(columns | others)


def _rows(shard: pa.Table) -> Iterator[_Row]:
    """The bytes of one row at a time are copied out of Arrow."""
    status, error = shard.column("status").to_pylist(), shard.column("error").to_pylist()
    data = (value.as_py() for value in shard.column("bytes"))
    expected: list[str | None] = [None] * len(shard)
    if "expected_sha256" in shard.column_names:
        expected = shard.column("expected_sha256").to_pylist()
    return map(_Row, data, status, error, expected)


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV on the caller's thread, and silent; both settings are the process's, so they are put back."""
    threads, level = cv2.getNumThreads(), cv2.utils.logging.getLogLevel()
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        cv2.utils.logging.setLogLevel(level)
