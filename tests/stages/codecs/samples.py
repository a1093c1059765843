"""Image files for the tests, made with Pillow from one asymmetric picture or from a photograph."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import skimage.data
from PIL import Image as PillowImage

from stages.base import Image

HEIGHT, WIDTH = 48, 80


def picture() -> Image:
    """Four flat quarters of different colours, RGB uint8 [48, 80, 3]: no two orientations look alike."""
    image = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[:24, :40], image[:24, 40:] = (250, 10, 10), (10, 240, 10)
    image[24:, :40], image[24:, 40:] = (10, 10, 230), (120, 120, 120)
    return image


def photo() -> Image:
    """A photograph of a cat, RGB uint8 [300, 451, 3]."""
    return np.asarray(skimage.data.chelsea(), dtype=np.uint8)


def encode(image: Image | PillowImage.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file that Pillow writes; `kind` is Pillow's name of the format."""
    file = io.BytesIO()
    as_pillow = image if isinstance(image, PillowImage.Image) else PillowImage.fromarray(image)
    as_pillow.save(file, kind, **options)
    return file.getvalue()


def orientation(value: int) -> bytes:
    """EXIF that holds one orientation."""
    exif = PillowImage.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def stored(image: Image, value: int) -> Image:
    """How a camera stores `image` if it writes this orientation: the inverse of turning it upright."""
    steps = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: np.rot90(image, 1),
        7: image[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(image, -1),
    }
    return np.ascontiguousarray(steps[value])


def chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    """A PNG chunk; `length` lies about its size."""
    size = struct.pack(">I", len(data) if length is None else length)
    return size + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(height: int, width: int, *chunks: bytes, color: int = 2, depth: int = 8) -> bytes:
    """A PNG header and the given chunks."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks)
