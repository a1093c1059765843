"""Tests of stages/codecs/pixels.py: every kind of file ends as the right pixels or as a reason."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage

from stages.base import Image
from stages.codecs.errors import BadImageError
from stages.codecs.header import Header
from stages.codecs.pixels import decode, read_header, turn
from stages.schemas import Status
from tests.stages.codecs.samples import chunk, encode, orientation, photo, picture, png, stored

LOSSY = 12.0  # mean levels that a codec may change, around the edges of the quarters


def developed(data: bytes) -> Image:
    return decode(data, read_header(data))


def refusal(data: bytes) -> BadImageError:
    with pytest.raises(BadImageError) as caught:
        developed(data)
    assert caught.value.status is not Status.OK
    return caught.value


def distance(a: Image, b: Image) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"quality": 95}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("AVIF", {"quality": 95}),
        ("JPEG2000", {}),
        ("PPM", {}),
        ("ICO", {"sizes": [(80, 48)]}),
        ("QOI", {}),
    ],
)
def test_decode_written_file_gives_its_picture(kind: str, options: dict[str, Any]) -> None:
    pixels = developed(encode(picture(), kind, **options))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert distance(pixels, picture()) < LOSSY


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_decode_every_orientation_comes_upright(kind: str, value: int) -> None:
    exif: Any = orientation(value)
    if kind == "TIFF":
        exif = PillowImage.Exif()
        exif[0x0112] = value
    data = encode(stored(picture(), value), kind, exif=exif)
    header = read_header(data)
    assert header.upright == picture().shape[:2]
    assert distance(decode(data, header), picture()) < LOSSY


@pytest.mark.parametrize("value", range(1, 9))
def test_decode_reduced_jpeg_comes_upright(value: int) -> None:
    data = encode(stored(picture(), value), "JPEG", exif=orientation(value))
    half = decode(data, read_header(data), reduction=2)
    assert distance(half, picture()[::2, ::2]) < LOSSY


@pytest.mark.parametrize("value", range(1, 9))
def test_turn_stored_picture_comes_back(value: int) -> None:
    assert np.array_equal(turn(stored(picture(), value), value), picture())


def test_decode_damaged_exif_is_still_a_picture() -> None:
    data = encode(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert distance(developed(data), picture()) < LOSSY


@pytest.mark.parametrize("cut", [1, 2])
def test_decode_jpeg_without_its_end_marker_is_restored(cut: int) -> None:
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        whole = encode(photo(), "JPEG", quality=90, **options)
        assert np.array_equal(developed(whole[:-cut]), developed(whole))


def test_decode_restore_off_refuses_a_jpeg_without_its_end_marker() -> None:
    data = encode(photo(), "JPEG")[:-2]
    with pytest.raises(BadImageError) as caught:
        decode(data, read_header(data), restore=False)
    assert caught.value.status is Status.TRUNCATED


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_decode_jpeg_cut_anywhere_in_its_data_is_truncated(options: dict[str, Any]) -> None:
    whole = encode(photo(), "JPEG", quality=90, **options)
    rng = np.random.default_rng(0)
    # Half of the cuts take off only the last few bytes, where least is missing.
    cuts = [*rng.integers(len(whole) // 4, len(whole) - 3, 30), *(len(whole) - rng.integers(3, 40, 30))]
    for cut in cuts:
        assert refusal(whole[: int(cut)]).status is Status.TRUNCATED, f"cut at {cut} of {len(whole)}"


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_decode_reduced_jpeg_cut_is_truncated(reduction: int) -> None:
    whole = encode(photo(), "JPEG", quality=90)
    data = whole[: len(whole) // 2]
    with pytest.raises(BadImageError) as caught:
        decode(data, read_header(data), reduction)
    assert caught.value.status is Status.TRUNCATED


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_decode_reduced_jpeg_is_a_smaller_picture(reduction: int) -> None:
    data = encode(photo(), "JPEG", quality=95)
    pixels = decode(data, read_header(data), reduction)
    assert pixels.shape == (-(-300 // reduction), -(-451 // reduction), 3)
    assert np.abs(pixels.mean(axis=(0, 1)) - photo().mean(axis=(0, 1))).max() < 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_decode_file_cut_in_its_data_is_truncated(kind: str, share: float) -> None:
    whole = encode(photo(), kind)
    assert refusal(whole[: int(len(whole) * share)]).status is Status.TRUNCATED


def test_decode_damaged_png_is_unreadable() -> None:
    data = bytearray(encode(photo(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert refusal(bytes(data)).status is Status.UNREADABLE


def transparent(mode: str) -> PillowImage.Image:
    """Red, half transparent on the left and fully on the right, where it hides its red."""
    rgba = np.full((32, 64, 4), (200, 0, 0, 0), dtype=np.uint8)
    rgba[:, :32, 3] = 128
    return PillowImage.fromarray(rgba).convert(mode)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True, "exact": True}),
        ("TIFF", {}),
        ("AVIF", {"quality": 100}),
        ("JPEG2000", {}),
        ("ICO", {"sizes": [(64, 32)]}),
    ],
)
def test_decode_transparency_comes_on_white(kind: str, options: dict[str, Any]) -> None:
    pixels = developed(encode(transparent("RGBA"), kind, **options))
    assert distance(pixels[:, 36:], np.full_like(pixels[:, 36:], 255)) <= 1
    half = np.empty_like(pixels[:, :28])
    half[:] = (227, 127, 127)
    assert distance(pixels[:, :28], half) <= 2


def test_decode_grey_with_transparency_comes_on_white() -> None:
    pixels = developed(encode(transparent("LA"), "PNG"))
    assert (pixels[:, 32:] == 255).all()
    assert abs(int(pixels[0, 0, 0]) - 157) <= 2  # grey 60 at half


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_decode_transparent_palette_entry_comes_on_white(kind: str) -> None:
    image = PillowImage.fromarray(picture()).quantize(4)
    index = image.getpixel((0, 0))
    pixels = developed(encode(image, kind, transparency=index))
    assert (pixels[:24, :40] == 255).all()
    assert distance(pixels[24:], picture()[24:]) < 2


def test_decode_bmp_with_padding_for_alpha_is_opaque() -> None:
    padded = np.dstack([picture(), np.zeros(picture().shape[:2], dtype=np.uint8)])
    assert np.array_equal(developed(encode(padded, "BMP")), picture())


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_decode_sixteen_bit_grey_is_scaled(kind: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (16, 1))
    pixels = developed(encode(PillowImage.fromarray(ramp), kind))
    expected = np.repeat((ramp / 257)[:, :, None], 3, axis=2).round().astype(np.uint8)
    assert distance(pixels, expected) <= 1


def test_decode_sixteen_bit_transparency_comes_on_white() -> None:
    bgra = np.full((8, 8, 4), (10 * 257, 100 * 257, 200 * 257, 65535), dtype=np.uint16)
    bgra[:, 4:, 3] = 0
    pixels = developed(cv2.imencode(".png", bgra)[1].tobytes())
    assert (pixels[:, :4] == (200, 100, 10)).all()
    assert (pixels[:, 4:] == 255).all()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "PNG"), ("L", "JPEG"), ("L", "WEBP"), ("L", "TIFF"), ("1", "PNG"), ("1", "TIFF"), ("1", "PPM")],
)
def test_decode_grey_and_one_bit_have_three_equal_channels(mode: str, kind: str) -> None:
    image = PillowImage.fromarray(photo()).convert(mode)
    pixels = developed(encode(image, kind))
    assert distance(pixels, np.asarray(image.convert("RGB"))) < 5
    assert np.abs(pixels[:, :, 0].astype(int) - pixels[:, :, 2]).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_decode_palette_gives_its_colours(kind: str) -> None:
    image = PillowImage.fromarray(picture()).quantize(4)
    assert distance(developed(encode(image, kind)), picture()) < 2


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_decode_cmyk_gives_its_colours(kind: str) -> None:
    image = PillowImage.fromarray(picture()).convert("CMYK")
    assert distance(developed(encode(image, kind)), picture()) < LOSSY


def test_decode_lab_tiff_gives_its_colours() -> None:
    from PIL import ImageCms

    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(PillowImage.fromarray(photo()), *spaces, outputMode="LAB")
    assert lab is not None
    assert distance(developed(encode(lab, "TIFF")), photo()) < 5


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_decode_animation_gives_the_first_frame(kind: str) -> None:
    frames = [PillowImage.fromarray(picture()[:, ::step].copy()).resize((80, 48)) for step in (1, -1, 1)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert distance(developed(data), picture()) < LOSSY


def test_decode_animated_png_gives_its_still_picture() -> None:
    frames = [PillowImage.fromarray(picture()), PillowImage.fromarray(picture()[::-1].copy())]
    data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:] * 2, default_image=True)
    assert np.array_equal(developed(data), picture())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"just text",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"%PDF-1.7",
        b"<svg></svg>",
        b"\0\0\0\x18ftypheic\0\0\0\0",
    ],
)
def test_read_header_format_that_is_not_read_is_unsupported(data: bytes) -> None:
    with pytest.raises(BadImageError) as caught:
        read_header(data)
    assert caught.value.status is Status.UNSUPPORTED


@pytest.mark.parametrize("data", [png(0, 5), png(5, 0), b"P6\n0 7\n255\n"])
def test_read_header_of_an_empty_picture_is_unreadable(data: bytes) -> None:
    with pytest.raises(BadImageError) as caught:
        read_header(data)
    assert caught.value.status is Status.UNREADABLE


def test_decode_picture_of_another_size_than_its_header_is_unreadable() -> None:
    with pytest.raises(BadImageError, match="48 x 80 pixels") as caught:
        decode(encode(picture(), "JPEG"), Header("jpeg", 10, 10))
    assert caught.value.status is Status.UNREADABLE


def test_decode_more_pixels_than_opencv_allows_is_too_large() -> None:
    data = png(40_000, 40_000, chunk(b"IDAT", b"x" * 50), chunk(b"IEND", b""))
    assert refusal(data).status is Status.TOO_LARGE


def test_read_header_pillow_bomb_is_too_large() -> None:
    qoi = b"qoif" + (20_000).to_bytes(4, "big") * 2 + b"\3\0" + bytes(50)
    with pytest.raises(BadImageError) as caught:
        read_header(qoi)
    assert caught.value.status is Status.TOO_LARGE


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI"]
)
def test_decode_random_damage_ends_as_pixels_or_as_the_same_reason(kind: str) -> None:
    whole = encode(picture(), kind)
    rng = np.random.default_rng(7)
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), int(rng.integers(1, 9))):
            data[at] = int(rng.integers(0, 256))
        outcomes = []
        for _ in range(2):
            try:
                header = read_header(bytes(data))
                if header.height * header.width > 10**6:
                    break
                outcomes.append(decode(bytes(data), header).shape)
            except BadImageError as error:
                outcomes.append((error.status, str(error)))
        assert len(set(outcomes)) <= 1
        assert not any("0x" in str(outcome) or "/" in str(outcome) for outcome in outcomes)


def test_decode_float_tiff_is_scaled() -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (16, 1))
    file = io.BytesIO()
    PillowImage.fromarray(ramp).save(file, "TIFF")
    pixels = developed(file.getvalue())
    assert pixels[0, 0, 0] == 0
    assert pixels[0, -1, 0] == 255
    assert abs(int(pixels[0, 32, 0]) - 130) <= 1
