"""Tests of stages/codecs/header.py: what a file says about itself before anything is decoded."""

import io
import struct
import tracemalloc
from typing import Any

import pytest
from PIL import Image as PillowImage

from stages.codecs.errors import BadImageError
from stages.codecs.header import exif_orientation, is_truncated, parse, sniff
from stages.schemas import Status
from tests.stages.codecs.samples import HEIGHT, WIDTH, chunk, encode, orientation, picture, png

WRITTEN = [
    ("JPEG", "jpeg", {}),
    ("JPEG", "jpeg", {"progressive": True}),
    ("PNG", "png", {}),
    ("WEBP", "webp", {}),
    ("WEBP", "webp", {"lossless": True}),
    ("GIF", "gif", {}),
    ("BMP", "bmp", {}),
    ("TIFF", "tiff", {}),
    ("AVIF", "avif", {}),
    ("JPEG2000", "jp2", {}),
    ("JPEG2000", "jp2", {"no_jp2": True}),
    ("PPM", "pnm", {}),
    ("ICO", "ico", {}),
    ("QOI", "qoi", {}),
]


@pytest.mark.parametrize(("kind", "name", "options"), WRITTEN)
def test_sniff_file_of_a_known_format_names_it(kind: str, name: str, options: dict[str, Any]) -> None:
    assert sniff(encode(picture(), kind, **options)[:32]) == name


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", None),
        (b"hello, world, this is a text file", None),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"\xff\xd8", None),
        (b"P5 3 3 255 ", "pnm"),
        (b"P9 3 3 255 ", None),
        (b"8BPS\0\1", "psd"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heic"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "avif"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", None),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "eps"),
        (b"%PDF-1.4", "pdf"),
        (b"<svg xmlns=", "svg"),
    ],
)
def test_sniff_magic_bytes_decide(data: bytes, name: str | None) -> None:
    assert sniff(data) == name


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [row for row in WRITTEN if row[1] in {"jpeg", "png", "webp", "bmp", "tiff", "pnm"}],
)
def test_parse_written_file_tells_its_size(kind: str, name: str, options: dict[str, Any]) -> None:
    header = parse(encode(picture(), kind, **options), name)
    assert header is not None
    assert (header.format, header.height, header.width, header.orientation) == (name, HEIGHT, WIDTH, 1)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "name"), [("JPEG", "jpeg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tiff")]
)
def test_parse_exif_orientation_turns_the_size(kind: str, name: str, value: int) -> None:
    exif: Any = orientation(value)
    if kind == "TIFF":
        exif = PillowImage.Exif()
        exif[0x0112] = value
    header = parse(encode(picture(), kind, exif=exif), name)
    assert header is not None
    assert header.orientation == value
    assert (header.height, header.width) == (HEIGHT, WIDTH)
    assert header.upright == ((WIDTH, HEIGHT) if value >= 5 else (HEIGHT, WIDTH))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_exif_orientation_out_of_range_counts_as_upright(value: int) -> None:
    block = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, value, 0)
    assert exif_orientation(block) == 1


@pytest.mark.parametrize("block", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"])
def test_exif_orientation_damaged_block_counts_as_upright(block: bytes) -> None:
    assert exif_orientation(block) == 1


def test_parse_png_chunk_longer_than_the_file_is_truncated() -> None:
    bomb = png(1, 1, chunk(b"IDAT", b"12345678", length=0x7FFFFFFF))
    assert len(bomb) < 80
    tracemalloc.start()
    with pytest.raises(BadImageError, match="ends inside its chunk 'IDAT'") as caught:
        parse(bomb, "png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.status is Status.TRUNCATED
    assert peak < 100_000


@pytest.mark.parametrize(
    ("kind", "name", "cut"),
    [("JPEG", "jpeg", 40), ("PNG", "png", 20), ("WEBP", "webp", 20), ("BMP", "bmp", 20), ("TIFF", "tiff", 6)],
)
def test_parse_header_cut_off_is_truncated(kind: str, name: str, cut: int) -> None:
    with pytest.raises(BadImageError) as caught:
        parse(encode(picture(), kind)[:cut], name)
    assert caught.value.status is Status.TRUNCATED


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\xd8\xff\xd9" + bytes(10), "jpeg"),
        (b"RIFF\0\0\0\0WEBPJUNK" + bytes(20), "webp"),
        (b"P6 six nine 255\n", "pnm"),
        (b"P6\n# only a comment", "pnm"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "tiff"),
    ],
)
def test_parse_header_without_a_size_is_unreadable(data: bytes, name: str) -> None:
    with pytest.raises(BadImageError) as caught:
        parse(data, name)
    assert caught.value.status is Status.UNREADABLE


def test_parse_pnm_comment_is_skipped() -> None:
    header = parse(b"P5\n# 12 34\n7 # width\n9\n255\n" + bytes(63), "pnm")
    assert header is not None
    assert (header.height, header.width) == (9, 7)


def test_parse_jpeg_fill_bytes_between_segments_are_skipped() -> None:
    whole = encode(picture(), "JPEG")
    header = parse(whole[:2] + b"\xff\xff\xff" + whole[2:], "jpeg")
    assert header is not None
    assert (header.height, header.width) == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("mode", "kind", "name", "alpha"),
    [
        ("RGB", "PNG", "png", False),
        ("RGBA", "PNG", "png", True),
        ("LA", "PNG", "png", True),
        ("RGB", "WEBP", "webp", False),
        ("RGBA", "WEBP", "webp", True),
        ("RGB", "BMP", "bmp", False),
    ],
)
def test_parse_alpha_is_told(mode: str, kind: str, name: str, alpha: bool) -> None:
    image = PillowImage.fromarray(picture()).convert(mode)
    if "A" in mode:
        image.putalpha(100)
    header = parse(encode(image, kind), name)
    assert header is not None
    assert header.alpha is alpha


def test_parse_png_palette_with_transparency_has_alpha() -> None:
    image = PillowImage.fromarray(picture()).quantize(8)
    header = parse(encode(image, "PNG", transparency=0), "png")
    assert header is not None
    assert header.alpha


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("JPEG", "jpeg"),
        ("PNG", "png"),
        ("WEBP", "webp"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("AVIF", "avif"),
        ("JPEG2000", "jp2"),
    ],
)
def test_is_truncated_tells_whole_from_cut(kind: str, name: str) -> None:
    whole = encode(picture(), kind)
    assert not is_truncated(whole, name)
    assert is_truncated(whole[: len(whole) * 3 // 4], name)


def test_is_truncated_jpeg_end_marker_of_a_thumbnail_does_not_count() -> None:
    thumbnail = encode(picture(), "JPEG")
    application = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = encode(picture(), "JPEG")
    outer = whole[:2] + application + whole[2:]
    assert not is_truncated(outer, "jpeg")
    assert is_truncated(outer[:-100], "jpeg")
    assert is_truncated(outer[: len(application) + 30], "jpeg")


def test_is_truncated_jpeg_garbage_after_the_end_is_no_truncation() -> None:
    assert not is_truncated(encode(picture(), "JPEG") + b"trailing bytes of a camera", "jpeg")


def test_parse_large_header_is_read_without_decoding() -> None:
    file = io.BytesIO()
    PillowImage.new("1", (30_000, 30_000)).save(file, "PNG")
    header = parse(file.getvalue(), "png")
    assert header is not None
    assert (header.height, header.width) == (30_000, 30_000)
