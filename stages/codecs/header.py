"""What an image file says about itself in its first bytes: format, size, orientation. No pixel is decoded."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from stages.codecs.errors import BadImageError
from stages.schemas import Status

# (offset, bytes, format). HEIC, JPEG XL and vector formats are named only to say so in the error.
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (8, b"WEBP", "webp"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (0, b"II+\0", "tiff"),
    (0, b"MM\0+", "tiff"),
    (4, b"ftypavif", "avif"),
    (4, b"ftypavis", "avif"),
    (4, b"ftyphei", "heic"),
    (4, b"ftyphev", "heic"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
    (0, b"\xff\x4f\xff\x51", "jp2"),
    (0, b"8BPS", "psd"),
    (0, b"\0\0\1\0", "ico"),
    (0, b"qoif", "qoi"),
    (0, b"BM", "bmp"),
    (0, b"\xff\x0a", "jxl"),
    (0, b"\0\0\0\x0cJXL ", "jxl"),
    (0, b"%PDF", "pdf"),
    (0, b"%!PS", "eps"),
    (0, b"<svg", "svg"),
)
_PNM = tuple(b"P%d%c" % (kind, space) for kind in range(1, 7) for space in b" \t\r\n")
_MARKER = re.compile(rb"\xff+[^\xff]")
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Header:
    """`height` and `width` as stored; `orientation` is the EXIF one, 1 to 8, that turns them upright."""

    format: str
    height: int
    width: int
    orientation: int = 1
    alpha: bool = False  # pixels may be transparent
    animated: bool = False  # told of PNG only
    pillow: bool = False  # OpenCV reads such a file, but wrongly

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width as displayed."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def sniff(data: bytes) -> str | None:
    """The format that the magic bytes name, or None. 32 bytes are enough."""
    for offset, magic, name in _MAGIC:
        if data.startswith(magic, offset):
            return name
    if data.startswith(_PNM):
        return "pnm"
    if data[4:8] == b"ftyp" and b"avif" in data[8:32]:
        return "avif"  # a still picture of a generic brand (mif1, miaf)
    return None


def parse(data: bytes, name: str) -> Header | None:
    """The header of a `name` file; None for formats that are left to Pillow to open.

    Raises BadImageError: the header is damaged, or the bytes end inside it.
    """
    try:
        match name:
            case "jpeg":
                return _jpeg(data)
            case "png":
                return _png(data)
            case "webp":
                return _webp(data)
            case "bmp":
                return _bmp(data)
            case "tiff" if data[2:4] in (b"*\0", b"\0*"):
                return _tiff(data)
            case "pnm":
                return _pnm(data)
            case _:
                return None
    except (struct.error, IndexError) as error:
        raise BadImageError(Status.TRUNCATED, f"the {name} file ends inside its header") from error


def exif_orientation(tiff: bytes) -> int:
    """The orientation in an EXIF block (a TIFF file): 1 to 8, and 1 where it holds none that is valid."""
    try:
        value = _ifd(tiff).get(_ORIENTATION, 1)
    except (struct.error, BadImageError):
        return 1
    return value if 1 <= value <= 8 else 1


def is_truncated(data: bytes, name: str) -> bool:
    """Whether a file that no decoder accepts ends too early, by what its own structure says."""
    match name:
        case "jpeg":
            return _jpeg_is_cut(data)
        case "png":
            return b"IEND" not in data[-1024:]
        case "webp":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
        case "gif":
            return not data.rstrip(b"\0").endswith(b";")
        case "bmp":
            return int.from_bytes(data[2:6], "little") > len(data)
        case "jp2":
            return b"\xff\xd9" not in data[-64:]
        case "avif":
            return _boxes_exceed(data)
        case _:
            return False


def _jpeg(data: bytes) -> Header:
    orientation = 1
    for marker, at, length in _jpeg_segments(data):
        if marker == 0xE1 and data.startswith(b"Exif\0\0", at + 2) and orientation == 1:
            orientation = exif_orientation(data[at + 8 : at + length])
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            return Header("jpeg", height, width, orientation)
    raise BadImageError(Status.UNREADABLE, "the jpeg file has no frame header")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, position and length of each segment, up to the first scan or the end of the image.

    Raises IndexError or struct.error where the bytes end before that.
    """
    at, marker = 2, 0
    while marker not in (0xD9, 0xDA):
        found = _MARKER.search(data, at)
        if found is None:
            raise IndexError("no marker")
        marker, at = found.group()[-1], found.end()
        if 0xC0 <= marker <= 0xFE and not 0xD0 <= marker <= 0xD9:
            (length,) = struct.unpack_from(">H", data, at)
            yield marker, at, length
            at += length


def _jpeg_is_cut(data: bytes) -> bool:
    """Whether no end marker follows the first scan; that of a thumbnail comes before it."""
    try:
        scan = next((at for marker, at, _ in _jpeg_segments(data) if marker == 0xDA), None)
    except (struct.error, IndexError):
        return True
    return scan is not None and data.find(b"\xff\xd9", scan) < 0


def _png(data: bytes) -> Header:
    """Also holds every chunk length against the file: libpng allocates what a length says, up to 1 GB."""
    width, height, _, color = struct.unpack_from(">IIBB", data, 16)
    orientation, alpha, animated, at = 1, color in (4, 6), False, 8
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if at + 12 + length > len(data):
            name = kind.decode("ascii", "replace")
            raise BadImageError(Status.TRUNCATED, f"the png file ends inside its chunk {name!r}")
        if kind == b"tRNS":
            alpha = True
        elif kind == b"acTL":
            animated = True
        elif kind == b"eXIf":
            orientation = exif_orientation(data[at + 8 : at + 8 + length])
        elif kind == b"IEND":
            break
        at += 12 + length
    return Header("png", height, width, orientation, alpha, animated)


def still_png(data: bytes) -> bytes:
    """An animated PNG without its animation: what every program shows that does not animate."""
    kept, at = [data[:8]], 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in (b"acTL", b"fcTL", b"fdAT"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("webp", height & 0x3FFF, width & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("webp", (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, alpha=bool(bits >> 28 & 1))
    if kind != b"VP8X":
        raise BadImageError(Status.UNREADABLE, "the webp file has no frame header")
    flags = data[20]
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    orientation = _webp_orientation(data) if flags & 0x08 else 1
    return Header("webp", height, width, orientation, alpha=bool(flags & 0x12))


def _webp_orientation(data: bytes) -> int:
    at = 12
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"EXIF":
            return exif_orientation(data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0"))
        at += 8 + length + length % 2
    return 1


def _bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    # A fourth byte is alpha only where a mask says so; elsewhere it is padding, often zero.
    alpha = size >= 56 and data[30] in (3, 6) and data[66:70] != b"\0\0\0\0"
    return Header("bmp", abs(height), width, alpha=alpha)


def _tiff(data: bytes) -> Header:
    tags = _ifd(data)
    if 256 not in tags or 257 not in tags:
        raise BadImageError(Status.UNREADABLE, "the tiff file has no size")
    # OpenCV returns transparent colours already multiplied by alpha, some twice, and Lab as if it were RGB.
    pillow = 338 in tags or tags.get(262) == 8
    return Header("tiff", tags[257], tags[256], exif_orientation(data), pillow=pillow)


def _ifd(data: bytes) -> dict[int, int]:
    """Tag -> first value of the first directory, where that is a whole number."""
    order: Literal["<", ">"] = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    tags: dict[int, int] = {}
    for entry in range(at + 2, min(at + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
        code = {1: "B", 3: "H", 4: "I"}.get(kind)
        if code is not None and number >= 1:
            where = entry + 8
            if number * struct.calcsize(code) > 4:
                (where,) = struct.unpack_from(f"{order}I", data, where)
            tags[tag] = struct.unpack_from(order + code, data, where)[0]
    return tags


def _pnm(data: bytes) -> Header:
    numbers: list[int] = []
    for line in data[2:1024].split(b"\n"):
        for word in line.split(b"#")[0].split():
            if not word.isdigit():
                raise BadImageError(Status.UNREADABLE, "the pnm file has no size")
            numbers.append(int(word))
            if len(numbers) == 2:
                return Header("pnm", numbers[1], numbers[0])
    raise BadImageError(Status.UNREADABLE, "the pnm file has no size")


def _boxes_exceed(data: bytes) -> bool:
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if length < 8:
            return False
        at += length
    return at > len(data)
