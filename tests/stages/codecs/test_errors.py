"""Tests of stages/codecs/errors.py: error texts are data, so they may not change from run to run."""

import pytest

from stages.codecs.errors import BadImageError, clean
from stages.schemas import Status


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot identify image file <_io.BytesIO object at 0x7f5b1c0a3d80>", "cannot identify image file"),
        (
            "OpenCV(5.0.0) /io/opencv/modules/core/src/alloc.cpp:73: error: (-4:Insufficient memory) "
            "Failed to allocate 12 bytes in function 'OutOfMemoryError'\n",
            "Failed to allocate 12 bytes in function 'OutOfMemoryError'",
        ),
        ("bad pointer 0xDEADBEEF here", "bad pointer here"),
        ("no such file: /home/someone/photos/cat.jpg", "no such file:"),
        ("two\nlines\tand\x1b[31m colour", "two lines and [31m colour"),
        ("  plain text  ", "plain text"),
    ],
)
def test_clean_noise_is_dropped(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_bad_image_error_long_text_is_cut_to_one_line() -> None:
    error = BadImageError(Status.UNREADABLE, "word\n" * 1000)
    assert len(str(error)) == 200
    assert "\n" not in str(error)
    assert error.status is Status.UNREADABLE
