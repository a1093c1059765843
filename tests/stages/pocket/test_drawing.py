"""Pictures of scenes, and folders of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stages.pocket import scenes
from stages.pocket.corpus import write_broken, write_pictures
from stages.pocket.drawing import INKS, PAPERS, draw
from stages.pocket.scenes import Chart, Shapes, Sign, Thing


def _is_near(pixels: NDArray[np.uint8], color: tuple[int, int, int], spread: int = 25) -> NDArray[np.bool_]:
    far = np.abs(pixels.astype(np.int16) - np.array(color)).max(axis=-1)
    return np.asarray(far <= spread)


@pytest.mark.parametrize("size", [48, 150, 233, 400])
def test_draw_any_size_is_square_rgb(size: int) -> None:
    rng = np.random.default_rng(1)
    for _ in range(6):
        pixels = draw(scenes.sample(rng), rng, size)
        assert pixels.shape == (size, size, 3)
        assert pixels.dtype == np.uint8


def test_draw_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 48 px, not 47"):
        draw(Chart((1, 2, 3), "red"), np.random.default_rng(0), 47)


def test_draw_same_seed_draws_same_bytes() -> None:
    scene = scenes.sample(np.random.default_rng(2))
    first, again, other = (draw(scene, np.random.default_rng(seed), 200) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("shape", scenes.SHAPES)
@pytest.mark.parametrize("color", scenes.COLORS)
def test_draw_thing_colors_the_middle_of_its_cell_and_no_other(shape: str, color: str) -> None:
    scene = Shapes("black", (Thing(2, 0, color, shape),))
    pixels = draw(scene, np.random.default_rng(5), 300)
    inked = _is_near(pixels, INKS[color])
    assert inked[245:255, 45:55].all()
    inked[200:, :100] = False
    assert not inked.any()


def test_draw_bars_are_as_tall_as_their_values() -> None:
    chart = Chart((2, 8, 5), "blue")
    pixels = draw(chart, np.random.default_rng(6), 360)
    inked = _is_near(pixels, INKS["blue"])
    heights = [int(inked[:, int((place + 1.5) * 60)].sum()) for place in range(3)]
    assert [round(height / 30) for height in heights] == [2, 8, 5]
    assert not inked[:, 240:].any()


def test_draw_sign_digits_differ_only_where_they_differ() -> None:
    one, other = (Sign(text, "red", "white", "square") for text in ("381", "387"))
    first, second = (draw(sign, np.random.default_rng(7), 300) for sign in (one, other))
    changed = np.nonzero((first != second).any(axis=(0, 2)))[0]
    assert len(changed)
    assert changed.min() >= 200


@pytest.mark.parametrize("background", scenes.BACKGROUNDS)
def test_draw_background_fills_an_empty_picture(background: str) -> None:
    pixels = draw(Shapes(background, ()), np.random.default_rng(8), 100)
    assert _is_near(pixels, PAPERS[background], 5).all()


def test_write_pictures_same_seed_writes_same_files(tmp_path: Path) -> None:
    one, other = write_pictures(tmp_path / "a", 40, 9), write_pictures(tmp_path / "b", 40, 9)
    names = [written.path.relative_to(tmp_path / "a") for written in one]
    assert names == [written.path.relative_to(tmp_path / "b") for written in other]
    assert [written.path.read_bytes() for written in one] == [written.path.read_bytes() for written in other]


def test_write_pictures_many_are_held_out_readable_and_of_several_formats(tmp_path: Path) -> None:
    written = write_pictures(tmp_path, 150, 10)
    formats: Counter[str | None] = Counter()
    for one in written:
        assert scenes.split(one.scene) == "held_out"
        with Image.open(one.path) as picture:
            picture.load()
            formats[picture.format] += 1
            assert 150 <= picture.width == picture.height <= 400
    assert formats.most_common(1)[0][0] == "JPEG"
    assert set(formats) == {"JPEG", "PNG", "WEBP"}
    names = [one.path.name for one in written]
    assert any(" " in name for name in names)
    assert any(not name.isascii() for name in names)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_write_broken_each_kind_is_unreadable(tmp_path: Path) -> None:
    paths = write_broken(tmp_path, 5, 11)
    assert len(paths) == 5
    for path in paths:
        with pytest.raises((OSError, Image.DecompressionBombError)), Image.open(path) as picture:
            picture.load()


def test_write_broken_none_asked_makes_no_folder(tmp_path: Path) -> None:
    assert write_broken(tmp_path, 0, 12) == []
    assert not list(tmp_path.iterdir())
