"""Tests of stages/decode.py: rows in, the same rows out, whatever the files hold."""

import hashlib
import math
import resource
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from stages.base import Image, unpack_views
from stages.decode import DecodeConfig, DecodeImages, DecodeRun
from stages.digests import Digests
from stages.resize import Policy, ResizeConfig
from stages.schemas import ITEMS, TOLD, Status
from tests.stages.codecs.samples import chunk, encode, orientation, photo, picture, png, stored

SMALL = ResizeConfig(size=32)


def shard(*files: bytes | None, status: list[str] | None = None) -> pa.Table:
    statuses = status or ["ok"] * len(files)
    return pa.table(
        {
            "image_id": pa.array(range(100, 100 + len(files)), pa.int64()),
            "uri": pa.array([f"{row}.jpg" for row in range(len(files))]),
            "bytes": pa.array(files, pa.large_binary()),
            "status": pa.array(statuses, pa.string()),
            "error": pa.array([None if value == "ok" else "as the source says" for value in statuses]),
        }
    )


def decode(table: pa.Table, views: dict[str, ResizeConfig] | None = None, **config: Any) -> pa.Table:
    chosen = {"small": SMALL} if views is None else views
    return DecodeImages(DecodeConfig(**config), DecodeRun(), chosen)(table)


def psnr(a: Image, b: Image) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 99.0 if error == 0 else 10 * math.log10(255**2 / error)


def test_decode_images_good_file_fills_every_column() -> None:
    data = encode(stored(picture(), 6), "JPEG", exif=orientation(6))
    (row,) = decode(shard(data), {}).to_pylist()
    assert row == {
        "image_id": 100,
        "uri": "0.jpg",
        "sha256": hashlib.sha256(data).hexdigest(),
        "format": "jpeg",
        "original_height": 80,
        "original_width": 48,
        "height": 48,
        "width": 80,
        "status": "ok",
        "error": None,
    }


def test_decode_images_columns_are_those_of_the_items_dataset() -> None:
    columns = decode(shard(encode(picture(), "PNG"))).schema
    of_items = {field.name: field.type for field in ITEMS if field.name not in ("reused_from", *TOLD.names)}
    assert of_items == {field.name: field.type for field in columns if field.name != "view:small"}


def test_decode_images_bad_files_cost_their_neighbours_nothing() -> None:
    good, whole = encode(picture(), "PNG"), encode(photo(), "JPEG")
    files = {
        "ok": good,
        "empty": b"",
        "unsupported": b"this is a text file with the name of an image",
        "unreadable": good[:60] + bytes(8) + good[68:],
        "truncated": whole[: len(whole) // 2],
        "too_large": png(100_000, 100_000, chunk(b"IDAT", b""), chunk(b"IEND", b"")),
    }
    mixed = [item for bad in files.values() for item in (bad, good)]
    result = decode(shard(*mixed))
    assert result.column("status").to_pylist() == [item for name in files for item in (name, "ok")]
    assert result.column("image_id").to_pylist() == list(range(100, 112))
    views = unpack_views(result, "small")
    for status, error, view in zip(
        result.column("status").to_pylist(), result.column("error").to_pylist(), views, strict=True
    ):
        assert (view is not None) == (error is None) == (status == "ok")
    first, *others = (view.tobytes() for view in views if view is not None)
    assert all(other == first for other in others)


def test_decode_images_rows_that_the_source_lost_pass_through() -> None:
    result = decode(shard(None, encode(picture(), "PNG"), status=["missing", "ok"]))
    assert result.column("status").to_pylist() == ["missing", "ok"]
    assert result.column("error").to_pylist() == ["as the source says", None]
    assert result.column("sha256").to_pylist()[0] is None
    assert unpack_views(result, "small")[0] is None


def test_decode_images_of_other_bytes_than_expected_are_changed() -> None:
    good, other = encode(picture(), "PNG"), encode(photo(), "PNG")
    digests = [hashlib.sha256(data).hexdigest() for data in (good, good, other)]
    table = shard(good, good, good).append_column(
        "expected_sha256", pa.array([digests[0], None, digests[2]], pa.string())
    )
    made = decode(table)
    assert made["status"].to_pylist() == ["ok", "ok", "changed"]
    assert made["error"].to_pylist() == [None, None, "the file is no longer the one that items describes"]
    assert made["sha256"].to_pylist() == [digests[0]] * 3
    assert [view is None for view in unpack_views(made, "small")] == [False, False, True]
    assert made.column_names == decode(shard(good)).column_names


def test_decode_images_of_bytes_that_were_taken_down_says_nothing_of_them() -> None:
    good, other = encode(picture(), "PNG"), encode(photo(), "PNG")
    told = pa.array([f"of {row}" for row in range(3)], pa.string())
    table = shard(good, other, good).append_column("metadata", told).append_column("original_caption", told)
    forgotten = Digests.of([hashlib.sha256(good).hexdigest(), "ab" * 32])
    stage = DecodeImages(DecodeConfig(), DecodeRun(), {"small": SMALL}, forgotten)
    first, second, _ = stage(table).drop_columns(["view:small"]).to_pylist()
    known = {key: value for key, value in first.items() if value is not None}
    error = "the bytes were taken down"
    assert known == {"image_id": 100, "uri": "0.jpg", "status": "forgotten", "error": error}
    assert (second["status"], second["metadata"], second["original_caption"]) == ("ok", "of 1", "of 1")
    assert [view is None for view in unpack_views(stage(table), "small")] == [True, False, True]


def test_decode_images_reports_each_row_that_it_touches_and_the_end() -> None:
    stage, seen = DecodeImages(DecodeConfig(), DecodeRun(), {}), list[int | None]()
    stage.report_rows(seen.append)
    stage(shard(encode(picture(), "PNG"), None, b"no image", status=["ok", "missing", "ok"]))
    assert seen == [0, 2, None]


def test_decode_images_refused_file_keeps_what_is_known_of_it() -> None:
    data = encode(photo(), "JPEG")[:5000]
    (row,) = decode(shard(data)).to_pylist()
    assert (row["status"], row["format"], row["height"], row["width"]) == ("truncated", "jpeg", 300, 451)
    assert row["sha256"] == hashlib.sha256(data).hexdigest()


def test_decode_images_empty_shard_keeps_its_columns() -> None:
    result = decode(shard())
    assert result.num_rows == 0
    assert "view:small" in result.column_names


def test_decode_images_result_does_not_depend_on_the_cut() -> None:
    files = [encode(photo()[:, offset:], "JPEG") for offset in (0, 7, 50)] + [b"no image"]
    whole = decode(shard(*files))
    parts = pa.concat_tables([decode(shard(*files).slice(start, 2)) for start in (0, 2)])
    assert whole.equals(parts.combine_chunks())


def test_decode_images_views_are_what_was_asked_for() -> None:
    views = {
        "square": ResizeConfig(size=64),
        "wide": ResizeConfig(policy=Policy.FIT, size=100),
        "squashed": ResizeConfig(policy=Policy.SQUASH, size=50),
        "patches": ResizeConfig(policy=Policy.PATCH_BUDGET, max_patches=40),
    }
    result = decode(shard(encode(photo(), "JPEG", quality=95)), views)
    shapes = {}
    for name in views:
        (view,) = unpack_views(result, name)
        assert view is not None
        shapes[name] = view.shape
    assert shapes == {
        "square": (64, 64, 3),
        "wide": (67, 100, 3),
        "squashed": (50, 50, 3),
        "patches": (80, 128, 3),
    }


def test_decode_images_equal_views_share_their_pixels() -> None:
    views = {"a": ResizeConfig(size=64), "b": ResizeConfig(size=64)}
    result = decode(shard(encode(photo(), "JPEG")), views)
    addresses = {
        result.column(f"view:{name}").chunk(0).field("pixels").buffers()[2].address for name in views
    }
    assert len(addresses) == 1


def test_decode_images_reduced_jpeg_looks_like_the_full_one() -> None:
    large = np.asarray(cv2.resize(photo(), None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    files = encode(large, "JPEG", quality=95), encode(large, "PNG")
    for size in (56, 112, 224):
        reduced, full = unpack_views(decode(shard(*files), {"v": ResizeConfig(size=size)}), "v")
        assert reduced is not None
        assert full is not None
        assert psnr(reduced, full) > 38


def test_decode_images_too_many_bytes_are_too_large() -> None:
    data = encode(picture(), "PNG")
    result = decode(shard(data, data + b"x"), max_bytes=len(data))
    assert result.column("status").to_pylist() == ["ok", "too_large"]


def test_decode_images_too_many_pixels_are_too_large_before_decoding() -> None:
    data = encode(picture(), "PNG")
    assert decode(shard(data), max_pixels=48 * 80).column("status").to_pylist() == ["ok"]
    (row,) = decode(shard(data), max_pixels=48 * 80 - 1).to_pylist()
    assert (row["status"], row["error"]) == ("too_large", "48 x 80 pixels are more than the 3839 allowed")


def test_decode_images_restore_off_refuses_a_jpeg_without_its_end() -> None:
    data = encode(photo(), "JPEG")[:-2]
    assert decode(shard(data)).column("status").to_pylist() == ["ok"]
    assert decode(shard(data), restore_jpeg_end=False).column("status").to_pylist() == ["truncated"]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_decode_images_picture_beyond_the_memory_limit_is_too_large(kind: str) -> None:
    # 192 MB of pixels in a few hundred kB, within max_pixels: only the limit stops it.
    bomb = encode(np.zeros((8000, 8000, 3), dtype=np.uint8), kind)
    files = shard(encode(picture(), "PNG"), bomb, encode(picture(), "PNG"))
    before = resource.getrlimit(resource.RLIMIT_AS)
    stage = DecodeImages(DecodeConfig(), DecodeRun(memory_limit_mb=100), {"small": SMALL})
    result = stage(files)
    assert result.column("status").to_pylist() == ["ok", "too_large", "ok"]
    assert result.column("error").to_pylist()[1] == "decoding takes more memory than allowed"
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    unlimited = DecodeImages(DecodeConfig(), DecodeRun(memory_limit_mb=None), {"small": SMALL})
    assert unlimited(files).column("status").to_pylist() == ["ok", "ok", "ok"]


def test_decode_images_view_beyond_the_memory_limit_is_too_large() -> None:
    huge = {"v": ResizeConfig(policy=Policy.SQUASH, size=9000)}
    stage = DecodeImages(DecodeConfig(), DecodeRun(memory_limit_mb=100), huge)
    assert stage(shard(encode(picture(), "PNG"))).column("status").to_pylist() == ["too_large"]


@pytest.mark.parametrize("side", [2**31, 2**32 - 1])
def test_decode_images_side_beyond_32_bits_costs_only_its_row(side: int) -> None:
    result = decode(shard(png(1, side, chunk(b"IEND", b"")), encode(picture(), "PNG")))
    assert result.column("status").to_pylist() == ["too_large", "ok"]


def test_decode_images_small_file_that_asks_for_a_gigabyte_is_truncated() -> None:
    bomb = png(2, 2, chunk(b"IDAT", b"12345678", length=0x3FFFFFFF))
    assert decode(shard(bomb)).column("status").to_pylist() == ["truncated"]


def test_decode_images_leaves_the_settings_of_opencv_alone() -> None:
    threads, level = cv2.getNumThreads(), cv2.utils.logging.getLogLevel()
    cv2.setNumThreads(3)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_INFO)
    decode(shard(encode(picture(), "PNG"), b"no image"))
    assert cv2.getNumThreads() == 3
    assert cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_INFO
    cv2.setNumThreads(threads)
    cv2.utils.logging.setLogLevel(level)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (DecodeConfig, {"max_pixels": 0}, "decode.max_pixels must be at least 1, got 0"),
        (DecodeConfig, {"max_bytes": -5}, "decode.max_bytes must be at least 1, got -5"),
        (DecodeRun, {"memory_limit_mb": 0}, "decode.memory_limit_mb must be at least 1, got 0"),
        (DecodeRun, {"timeout_s": 0}, "decode.timeout_s must be more than 0, got 0"),
    ],
)
def test_config_impossible_value_names_the_key(config: Any, values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        config(**values)


def test_status_of_every_refusal_is_in_the_enum() -> None:
    files = [b"", b"text", encode(photo(), "JPEG")[:3000], encode(picture(), "GIF")[:-30]]
    found = decode(shard(*files)).column("status").to_pylist()
    assert all(Status(value) is not Status.OK for value in found)


def test_decode_images_with_another_view_beside_it_gives_the_same_pixels() -> None:
    small, large = ResizeConfig(size=32), ResizeConfig(policy=Policy.FIT, size=300)
    # A 1/4 decode is enough for the small view, and not for the large one.
    table = shard(encode(np.asarray(cv2.resize(photo(), (400, 300)), dtype=np.uint8), "JPEG"))
    alone = unpack_views(decode(table, {"small": small}), "small")[0]
    beside = unpack_views(decode(table, {"large": large, "small": small}), "small")[0]
    assert alone is not None
    assert beside is not None
    np.testing.assert_array_equal(alone, beside)
