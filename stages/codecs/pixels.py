"""Bytes of an image file -> upright RGB pixels. OpenCV first, Pillow for what OpenCV does not read."""

import io
import math
import warnings
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from stages.base import Image
from stages.codecs import header as headers
from stages.codecs.errors import BadImageError
from stages.codecs.header import Header
from stages.schemas import Status

_Array: TypeAlias = npt.NDArray[Any]

# OpenCV reads these in full or not at all, so its refusal is a finding. Pillow accepts damaged PNGs.
_STRICT = frozenset({"jpeg", "png", "webp"})
# Not GIF, of which OpenCV loses the transparency of some files.
_OPENCV = _STRICT | {"bmp", "tiff", "avif", "jp2", "pnm"}
# What Pillow may take a file for, by its magic bytes: never its EPS, which would start Ghostscript.
_PILLOW = {
    "gif": ("GIF",),
    "bmp": ("BMP",),
    "tiff": ("TIFF",),
    "avif": ("AVIF",),
    "jp2": ("JPEG2000",),
    "pnm": ("PPM",),
    "ico": ("ICO",),
    "psd": ("PSD",),
    "qoi": ("QOI",),
}
# Formats that both decoders turn upright themselves.
_TURNED = frozenset({"tiff"})
_REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
# Bytes to be read as Huffman codes: without a marker among them, beginning with any two bits.
_FILLERS = tuple(bytes([value]) * 64 for value in (0x33, 0x55, 0xAA, 0xFE))
_LONGEST = 2**31 - 1  # pixels of a side, as datasets store them
_END_OF_JPEG = b"\xff\xd9"


def read_header(data: bytes) -> Header:
    """Format, size and orientation of an image file, without decoding it.

    Raises BadImageError: `unsupported` for a format that Darkroom does not read, `truncated`,
    `unreadable`, or `too_large` where Pillow's own limit is met.
    """
    name = headers.sniff(data)
    if name is None:
        raise BadImageError(Status.UNSUPPORTED, "the first bytes are those of no known image format")
    if name not in _OPENCV and name not in _PILLOW:
        raise BadImageError(Status.UNSUPPORTED, f"{name} files are not supported")
    header = headers.parse(data, name) or _pillow_header(data, name)
    if max(header.height, header.width) > _LONGEST:
        raise BadImageError(
            Status.TOO_LARGE, f"the {name} header says {header.height} x {header.width} pixels"
        )
    if header.height < 1 or header.width < 1:
        raise BadImageError(
            Status.UNREADABLE, f"the {name} header says {header.height} x {header.width} pixels"
        )
    return header


def decode(data: bytes, header: Header, reduction: int = 1, restore: bool = True) -> Image:
    """The picture, uint8 [height, width, 3], upright, transparency on white; the first frame of several.

    `reduction` 2, 4 or 8 returns a JPEG at that fraction of its size, rounded up; other formats
    take no reduction. `restore` accepts a JPEG that lacks only its end marker. Raises BadImageError.
    """
    opencv = header.format in _OPENCV and not header.pillow
    pixels = _opencv(data, header, reduction) if opencv else None
    if pixels is None and restore and header.format == "jpeg":
        pixels = _restore(data, header, reduction)
    if pixels is None:
        if headers.is_truncated(data, header.format):
            raise BadImageError(Status.TRUNCATED, f"the {header.format} file ends before its picture does")
        if header.format in _STRICT:
            raise BadImageError(Status.UNREADABLE, f"the {header.format} data is damaged")
        pixels = _pillow(data, header.format)
    if header.format not in _TURNED:
        pixels = turn(pixels, header.orientation)
    height, width = (math.ceil(side / reduction) for side in header.upright)
    if pixels.shape[:2] != (height, width):
        found = f"the picture has {pixels.shape[0]} x {pixels.shape[1]} pixels"
        raise BadImageError(Status.UNREADABLE, f"{found}, the {header.format} header says {height} x {width}")
    return pixels


def turn(pixels: Image, orientation: int) -> Image:
    """`pixels` turned upright from the EXIF orientation 1 to 8; contiguous."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def on_white(color: Image, alpha: Image) -> Image:
    """RGB uint8 [H, W, 3] over white by alpha uint8 [H, W]."""
    if int(alpha.min()) == 255:
        return color
    # 255 - (255 - color) * alpha / 255, in 8 bits throughout.
    ink = cv2.multiply(cv2.bitwise_not(color), cv2.merge([alpha, alpha, alpha]), scale=1 / 255)
    return np.asarray(cv2.bitwise_not(ink), dtype=np.uint8)


def out_of_memory(error: cv2.error) -> bool:
    """Whether OpenCV failed for want of memory."""
    return "bad_alloc" in str(error) or error.code == cv2.Error.StsNoMem


def _imdecode(data: bytes, flags: int) -> _Array | None:
    try:
        return cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        if out_of_memory(error):
            raise BadImageError(Status.TOO_LARGE, "decoding takes more memory than allowed") from error
        if "PIXELS" in str(error):
            raise BadImageError(Status.TOO_LARGE, "the picture has more pixels than OpenCV allows") from error
        return None


def _opencv(data: bytes, header: Header, reduction: int) -> Image | None:
    if header.animated:
        data = headers.still_png(data)
    if header.alpha:
        pixels = _imdecode(data, cv2.IMREAD_UNCHANGED)
        return None if pixels is None else _from_any(pixels)
    if reduction == 1 or header.format != "jpeg":
        pixels = _imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        return None if pixels is None else np.asarray(pixels, dtype=np.uint8)
    pixels = _imdecode(data, _REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if pixels is None else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _restore(data: bytes, header: Header, reduction: int) -> Image | None:
    """The picture of a JPEG that lacks only its end marker, or None.

    With an end marker appended OpenCV decodes any beginning of a JPEG and makes up the rest. But a
    decoder that has all it needs does not care what else comes before the marker, and one that
    lacks a block does: of 1,000 photos cut anywhere none passed, of 125 without a marker all did.
    A progressive JPEG cut exactly between two scans does pass: it is a whole, coarser picture.
    """
    data = data.rstrip(b"\xff")  # half a marker
    pixels = _opencv(data + _END_OF_JPEG, header, reduction)
    if pixels is None:
        return None
    others = (_opencv(data + filler + _END_OF_JPEG, header, reduction) for filler in _FILLERS)
    same = all(other is not None and np.array_equal(pixels, other) for other in others)
    return pixels if same else None


def _from_any(pixels: _Array) -> Image:
    """Whatever IMREAD_UNCHANGED returns (grey, BGR or BGRA; 8 or 16 bits) as RGB on white."""
    pixels = _eight_bits(pixels)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    color = np.asarray(cv2.cvtColor(pixels[:, :, :3], cv2.COLOR_BGR2RGB), dtype=np.uint8)
    return color if pixels.shape[2] == 3 else on_white(color, np.ascontiguousarray(pixels[:, :, 3]))


def _eight_bits(pixels: _Array) -> Image:
    """Integers of 16 bits over their whole range; other numbers 0..1 if none is above 1, else 0..255."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return np.asarray(cv2.convertScaleAbs(pixels, alpha=1 / 257), dtype=np.uint8)
    top = float(np.nanmax(pixels)) if pixels.size else 0.0
    levels = np.nan_to_num(pixels.astype(np.float32)) * (255 if top <= 1 else 1)
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _pillow_open(data: bytes, name: str) -> PillowImage.Image:
    try:
        with warnings.catch_warnings():
            # Pillow also warns of 89 megapixels and of metadata; the pixel limit is the caller's.
            warnings.simplefilter("ignore")
            return PillowImage.open(io.BytesIO(data), formats=_PILLOW[name])
    except PillowImage.DecompressionBombError as error:
        raise BadImageError(Status.TOO_LARGE, str(error)) from error
    # A dozen types come out of Pillow's plugins, from SyntaxError to struct.error: all mean this file.
    except Exception as error:
        raise _refusal(data, name, error) from error


def _pillow_header(data: bytes, name: str) -> Header:
    picture = _pillow_open(data, name)
    try:
        orientation = int(picture.getexif().get(0x0112, 1))
    # As above; a picture with damaged EXIF is a picture.
    except Exception:
        orientation = 1
    alpha = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    return Header(name, picture.height, picture.width, orientation if 1 <= orientation <= 8 else 1, alpha)


def _pillow(data: bytes, name: str) -> Image:
    picture = _pillow_open(data, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _pillow_pixels(picture)
    except MemoryError as error:
        raise BadImageError(Status.TOO_LARGE, "decoding takes more memory than allowed") from error
    # As in _pillow_open.
    except Exception as error:
        raise _refusal(data, name, error) from error


def _pillow_pixels(picture: PillowImage.Image) -> Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        # Pillow's own conversion to 8 bits clips instead of scaling.
        levels = np.asarray(picture)
        if picture.mode.startswith("I") and int(levels.max(initial=0)) > 255:
            levels = np.clip(levels, 0, 65535).astype(np.uint16)
        return _from_any(levels)
    if "A" in picture.getbands() or "transparency" in picture.info:
        rgba = np.asarray(picture.convert("RGBA"))
        return on_white(np.ascontiguousarray(rgba[:, :, :3]), np.ascontiguousarray(rgba[:, :, 3]))
    return np.asarray(picture.convert("RGB"))


def _refusal(data: bytes, name: str, error: Exception) -> BadImageError:
    if headers.is_truncated(data, name) or "truncated" in str(error):
        return BadImageError(Status.TRUNCATED, f"the {name} file ends before its picture does")
    return BadImageError(Status.UNREADABLE, f"the {name} data is damaged: {error}")
