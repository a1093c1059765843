"""Small files that ask for much: pixels, memory, time, or whatever their headers claim to hold."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image as PillowImage
from PIL import features

from tests.stages.codecs.samples import chunk, encode, photo, picture, png

WITHIN = 10_900  # pixels a side: 119 megapixels, just within `decode.max_pixels`
GRAY, RGBA = 0, 6


def _flat_png(side: int) -> bytes:
    """One bit a pixel: 50 MB for a side of 20,000, 220 kB compressed, and 1.2 GB as RGB."""
    data = zlib.compress(bytes(side * (1 + (side + 7) // 8)), 1)
    return png(side, side, chunk(b"IDAT", data), chunk(b"IEND", b""), color=GRAY, depth=1)


def _short_deep_png() -> bytes:
    data = chunk(b"IDAT", zlib.compress(bytes(64)))
    return png(WITHIN, WITHIN, data, chunk(b"IEND", b""), color=RGBA, depth=16)


def _with_chunks(chunks: bytes) -> bytes:
    """A good PNG with more chunks after its header."""
    good = encode(picture(), "PNG")
    return good[:33] + chunks + good[33:]


@cache
def _zip_bomb() -> bytes:
    return zlib.compress(bytes(200_000_000), 1)


def _segments(data: bytes) -> tuple[bytes, bytes]:
    """A JPEG up to its first scan, and from there on."""
    start = data.index(b"\xff\xda")
    return data[:start], data[start:]


def _resized_jpeg(data: bytes, side: int) -> bytes:
    """Another size in the frame header than the picture has."""
    start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: start + 5] + struct.pack(">HH", side, side) + data[start + 9 :]


def _progressive(side: int, scans: int) -> bytes:
    """A JPEG whose every scan makes the decoder go over the whole picture."""
    head, rest = _segments(encode(photo()[:64, :64], "JPEG", progressive=True))
    first = rest[: rest.index(b"\xff", 2 + struct.unpack(">H", rest[2:4])[0])]
    return _resized_jpeg(head, side) + first * scans + b"\xff\xd9"


def _webp(side: int) -> bytes:
    """A lossless one whose header names a size, and whose data end at once."""
    bits = (side - 1) | (side - 1) << 14
    data = b"\x2f" + struct.pack("<I", bits) + bytes(16)
    body = b"WEBPVP8L" + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _gif(side: int, frames: int) -> bytes:
    """A canvas of a size, and frames of one pixel on it."""
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b"\x3b"


def _tiff(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """One directory: tag, type, count, value; `following`: where it says that the next one is."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", following) + bytes(64)


def _plain_tiff(
    side: int, strip_bytes: int = 64, samples: int = 1, rows: int | None = None, following: int = 0
) -> bytes:
    short, long = 3, 4
    return _tiff(
        *((256, long, 1, side), (257, long, 1, side), (258, short, 1, 8), (259, short, 1, 1)),
        *((262, short, 1, 1), (273, long, 1, 8), (277, short, 1, samples)),
        *((278, long, 1, rows or side), (279, long, 1, strip_bytes)),
        following=following,
    )


def _many_strips() -> bytes:
    short, long = 3, 4
    return _tiff(
        *((256, long, 1, 8), (257, long, 1, 8), (258, short, 1, 8)),
        *((273, long, 2**32 - 1, 8), (279, long, 2**32 - 1, 8)),
    )


def _bmp(width: int, height: int, bits: int = 24, compression: int = 0, data: bytes = bytes(64)) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + info + data


def _ico(data: bytes, offset: int = 22, size: int | None = None) -> bytes:
    """One entry of 16 x 16 pixels, whatever its data say."""
    count = len(data) if size is None else size
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, count, offset) + data


def _psd(side: int) -> bytes:
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, side, side, 8, 3)
    return head + bytes(12) + struct.pack(">H", 1) + b"\x81\0" * 64


def _qoi(side: int) -> bytes:
    return b"qoif" + struct.pack(">IIBB", side, side, 4, 0) + b"\xfd" * 64 + bytes(7) + b"\x01"


def _jp2(side: int) -> bytes:
    size = struct.pack(">HHIIIIIIII", 0, 0, side, side, 0, 0, side, side, 0, 0) + struct.pack(">H", 3)
    size += b"\x07\x01\x01" * 3
    return b"\xff\x4f\xff\x51" + struct.pack(">H", 2 + len(size)) + size + bytes(64)


def _avif(side: int) -> bytes:
    good = encode(photo()[:64, :64], "AVIF")
    start = good.index(b"ispe") + 8
    return good[:start] + struct.pack(">II", side, side) + good[start + 8 :]


def _circular_exif() -> bytes:
    """A JPEG whose EXIF directory names itself as the next one, and one of four billion values."""
    entry = struct.pack("<HHII", 0x010E, 2, 0xFFFFFFFF, 8)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 8)
    good = encode(picture(), "JPEG")
    return good[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + good[2:]


@dataclass(frozen=True)
class Bomb:
    """A file and how it may end. `heavy`: within the limits, and up to 4 s of work."""

    make: Callable[[], bytes]
    ends: frozenset[str]
    heavy: bool = False


_OK, _LARGE, _BAD = frozenset({"ok"}), frozenset({"too_large"}), frozenset({"truncated", "unreadable"})
# How long they take depends on the machine.
_WORK = frozenset({"ok", "timeout"})

BOMBS = {
    "png of 20,000 x 20,000": Bomb(lambda: _flat_png(20_000), _LARGE),
    "png just within the limit": Bomb(lambda: _flat_png(WITHIN), _WORK, heavy=True),
    "png of 16 bits and alpha that ends at once": Bomb(_short_deep_png, _BAD),
    "png of no height": Bomb(lambda: png(0, 2**31 - 1, chunk(b"IDAT", b""), chunk(b"IEND", b"")), _BAD),
    "png with more data than its size": Bomb(
        lambda: png(4, 4, chunk(b"IDAT", _zip_bomb()), chunk(b"IEND", b"")), _OK | _BAD
    ),
    "png whose IDAT claims 2 GB": Bomb(lambda: png(48, 80, chunk(b"IDAT", bytes(64), 2**31 - 1)), _BAD),
    "png whose IDAT claims 4 GB": Bomb(lambda: png(48, 80, chunk(b"IDAT", bytes(64), 2**32 - 16)), _BAD),
    "png whose tEXt claims 4 GB": Bomb(lambda: _with_chunks(chunk(b"tEXt", b"a", 2**32 - 16)), _BAD),
    "png with a zip bomb in zTXt": Bomb(lambda: _with_chunks(chunk(b"zTXt", b"a\0\0" + _zip_bomb())), _OK),
    "png with a zip bomb in iCCP": Bomb(lambda: _with_chunks(chunk(b"iCCP", b"a\0\0" + _zip_bomb())), _OK),
    "png with 100,000 chunks": Bomb(lambda: _with_chunks(chunk(b"tEXt", b"a\0b") * 100_000), _OK),
    "png that says it has a million frames": Bomb(
        lambda: _with_chunks(chunk(b"acTL", struct.pack(">II", 1_000_000, 0))), _OK
    ),
    "jpeg of 16,000 x 16,000, progressive": Bomb(lambda: _progressive(16_000, 1), _LARGE),
    "jpeg of 65,535 x 65,535": Bomb(lambda: _resized_jpeg(encode(picture(), "JPEG"), 65_535), _LARGE),
    "jpeg within the limit that ends at once": Bomb(
        lambda: _resized_jpeg(encode(picture(), "JPEG"), WITHIN), _OK | _BAD
    ),
    "jpeg of 1,000 scans": Bomb(lambda: _progressive(4000, 1000), _WORK, heavy=True),
    "jpeg of 40,000 scans": Bomb(lambda: _progressive(8000, 40_000), frozenset({"timeout"}), heavy=True),
    "jpeg with a circular EXIF": Bomb(_circular_exif, _OK),
    "webp of 16,383 x 16,383": Bomb(lambda: _webp(16_383), _LARGE),
    "webp within the limit that ends at once": Bomb(lambda: _webp(WITHIN), _BAD),
    "gif of 65,535 x 65,535": Bomb(lambda: _gif(65_535, 1), _LARGE),
    "gif of 20,000 frames": Bomb(lambda: _gif(8, 20_000), _OK),
    "gif of 1,000 frames on a canvas within the limit": Bomb(lambda: _gif(WITHIN, 1000), _WORK, heavy=True),
    "tiff of 4 billion pixels a side": Bomb(lambda: _plain_tiff(2**32 - 1), _LARGE),
    "tiff within the limit without data": Bomb(lambda: _plain_tiff(WITHIN), _BAD),
    "tiff with a strip of 4 GB": Bomb(lambda: _plain_tiff(100, strip_bytes=2**32 - 1), _BAD),
    "tiff with 65,535 samples a pixel": Bomb(lambda: _plain_tiff(1000, samples=65_535), _BAD),
    "tiff with a circular directory": Bomb(lambda: _plain_tiff(8, following=8), _OK),
    "tiff with 4 billion strips": Bomb(_many_strips, _BAD),
    "bmp of 2 billion pixels a side": Bomb(lambda: _bmp(2**31 - 1, -(2**31)), _LARGE),
    "bmp of negative width": Bomb(lambda: _bmp(-8, 8), _BAD),
    "bmp within the limit without data": Bomb(lambda: _bmp(WITHIN, WITHIN), _BAD),
    "bmp of run lengths within the limit": Bomb(lambda: _bmp(WITHIN, WITHIN, 8, 1), _BAD),
    "ico that is its own picture": Bomb(lambda: _ico(b"", offset=0, size=22), _BAD),
    "ico of 16 x 16 that holds a png of 20,000 x 20,000": Bomb(lambda: _ico(_flat_png(20_000)), _LARGE),
    "ico of 16 x 16 that holds a png within the limit": Bomb(
        lambda: _ico(_flat_png(WITHIN)), _WORK, heavy=True
    ),
    "ico with a picture of 4 GB": Bomb(lambda: _ico(b"", size=2**32 - 1), _BAD),
    "psd of 30,000 x 30,000": Bomb(lambda: _psd(30_000), _BAD | _LARGE),
    "psd within the limit": Bomb(lambda: _psd(WITHIN), _BAD),
    "qoi of 4 billion pixels a side": Bomb(lambda: _qoi(2**32 - 1), _LARGE),
    "qoi within the limit that ends at once": Bomb(lambda: _qoi(WITHIN), _BAD),
    "jp2 of 4 billion pixels a side": Bomb(lambda: _jp2(2**32 - 1), _BAD | _LARGE),
    "jp2 within the limit without data": Bomb(lambda: _jp2(WITHIN), _BAD),
    "ppm of ten digits a side": Bomb(lambda: b"P6 9999999999 9999999999 255\n" + bytes(64), _LARGE),
    "ppm within the limit without data": Bomb(lambda: b"P6 10900 10900 255\n" + bytes(64), _BAD),
    "ppm in words": Bomb(lambda: b"P3 2000 2000 65535\n" + b"#" * 100_000, _BAD),
}
if features.check("avif"):
    BOMBS["avif of 20,000 x 20,000"] = Bomb(lambda: _avif(20_000), _BAD | _LARGE)
    BOMBS["avif that says another size"] = Bomb(lambda: _avif(WITHIN), _WORK | _BAD, heavy=True)


def _svg() -> bytes:
    return b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg"><text>&x;</text></svg>"""


def _eps(mark: str) -> bytes:
    """Would make a file, if somebody ran it."""
    return f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({mark}) (w) file closefile showpage\n".encode()


def _zip() -> bytes:
    return b"PK\x05\x06" + bytes(18)


def not_images(mark: str) -> dict[str, bytes]:
    """Files of other kinds. `mark`: a path at which one of them would make a file."""
    rng = np.random.default_rng(5)
    return {
        "html": b"<!doctype html><script>alert(1)</script>",
        "elf": b"\x7fELF\x02\x01\x01" + bytes(57),
        "sqlite": b"SQLite format 3\0" + bytes(84),
        "zip": _zip(),
        "eps": _eps(mark),
        "eps of windows": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, 200) + bytes(20) + _eps(mark),
        "svg": _svg(),
        "pdf": b"%PDF-1.7\n%%EOF",
        "python": b"raise SystemExit",
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "noise": rng.bytes(5000),
        "zeros": bytes(5000),
        "a jpeg marker only": b"\xff\xd8\xff",
        "a png signature only": b"\x89PNG\r\n\x1a\n",
        "mp4": b"\0\0\0\x18ftypmp42" + bytes(40),
        "wmf": b"\xd7\xcd\xc6\x9a" + bytes(60),
    }


def textured(side: int, seed: int) -> PillowImage.Image:
    """Coarse and fine noise with a shape on it: something for every part of a codec to do."""
    rng = np.random.default_rng(seed)
    coarse = PillowImage.fromarray(rng.integers(0, 256, (side // 16, side // 12, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((side + side // 3, side), PillowImage.Resampling.BICUBIC)).astype(
        np.int16
    )
    image = image + rng.integers(-20, 21, image.shape, dtype=np.int16)
    image[side // 4 : side // 2, side // 3 : side] = (200, 30, 90)
    return PillowImage.fromarray(np.clip(image, 0, 255).astype(np.uint8))
