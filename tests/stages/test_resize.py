"""Tests of stages/resize.py: the arithmetic by tables, the filter against Pillow on real photographs."""

import math
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image as PillowImage

from stages.base import Image
from stages.detail import detail_score
from stages.resize import (
    Filter,
    Policy,
    ResizeConfig,
    ResizePlan,
    apply,
    patch_budget,
    patches,
    plan_resize,
    view,
)

SIZES = [
    (1, 1),
    (1, 2),
    (2, 1),
    (1, 10_000),
    (10_000, 1),
    (3, 5),
    (16, 16),
    (17, 31),
    (100, 100),
    (223, 224),
    (224, 224),
    (225, 224),
    (333, 500),
    (375, 500),
    (500, 375),
    (640, 480),
    (1080, 1920),
    (4000, 3000),
    (8736, 11648),
    (60, 20_000),
]
CONFIGS = [
    ResizeConfig(),
    ResizeConfig(size=256, crop=224),
    ResizeConfig(policy=Policy.SQUASH, size=7),
    ResizeConfig(policy=Policy.SQUASH, height=31, width=500),
    ResizeConfig(policy=Policy.PAD, size=336),
    ResizeConfig(policy=Policy.FIT, size=512),
    ResizeConfig(policy=Policy.FIT, size=512, upscale=True),
    ResizeConfig(policy=Policy.PATCH_BUDGET),
    ResizeConfig(policy=Policy.PATCH_BUDGET, patch=14, max_patches=1),
    ResizeConfig(policy=Policy.PATCH_BUDGET, max_patches=1024, upscale=True),
]


def photo(name: str) -> Image:
    """A photograph that comes with scikit-image: RGB uint8 [H, W, 3]."""
    pixels = getattr(skimage.data, name)()
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, :3], dtype=np.uint8)


def psnr(a: Image, b: Image) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 99.0 if error == 0 else 10 * math.log10(255**2 / error)


def pillow(image: Image, size: tuple[int, int], kind: Filter) -> Image:
    method = PillowImage.Resampling[kind.name]
    return np.asarray(PillowImage.fromarray(image).resize(size[::-1], method))


def naflex_size(height: int, width: int, patch: int, budget: int) -> tuple[int, int]:
    """The rule of SigLIP2's image processor in transformers, as published."""

    def scaled(scale: float, side: int) -> int:
        return int(max(patch, math.ceil(side * scale / patch) * patch))

    low, high = 1e-5 / 10, 100.0
    while high - low >= 1e-5:
        scale = (low + high) / 2
        count = (scaled(scale, height) / patch) * (scaled(scale, width) / patch)
        low, high = (scale, high) if count <= budget else (low, scale)
    return scaled(low, height), scaled(low, width)


@pytest.mark.parametrize(
    ("height", "width", "size", "crop", "scaled", "corner"),
    [
        (375, 500, 224, None, (224, 298), (0, -37)),
        (500, 375, 224, None, (298, 224), (-37, 0)),
        (224, 224, 224, None, (224, 224), (0, 0)),
        (100, 100, 224, None, (224, 224), (0, 0)),
        (448, 672, 224, None, (224, 336), (0, -56)),
        (480, 640, 256, 224, (256, 341), (-16, -58)),
        (333, 500, 224, None, (224, 336), (0, -56)),
        (3, 5, 4, 2, (4, 6), (-1, -2)),
        (1, 1, 224, None, (224, 224), (0, 0)),
        (1, 3, 224, None, (224, 672), (0, -224)),
    ],
)
def test_plan_square_crops_the_centre(
    height: int, width: int, size: int, crop: int | None, scaled: tuple[int, int], corner: tuple[int, int]
) -> None:
    plan = plan_resize(height, width, ResizeConfig(size=size, crop=crop))
    assert (plan.scaled, (plan.top, plan.left)) == (scaled, corner)
    assert plan.canvas == (crop or size, crop or size)


@pytest.mark.parametrize(("height", "width"), [(1, 10_000), (10_000, 1), (60, 20_000), (50, 451)])
def test_plan_square_strip_scales_only_its_middle(height: int, width: int) -> None:
    plan = plan_resize(height, width, ResizeConfig(size=224))
    assert max(plan.scaled) <= 6 * 224
    assert all(side - 2 * trim >= 1 for side, trim in zip((height, width), plan.trim, strict=True))


def test_square_strip_shows_its_centre() -> None:
    strip = np.zeros((20, 2000, 3), dtype=np.uint8)
    strip[:, 990:1010] = 255
    seen = view(strip, (20, 2000), ResizeConfig(size=64))
    assert seen[:, 4:-4].min() == 255
    assert np.array_equal(seen, seen[:, ::-1])


@pytest.mark.parametrize(
    ("height", "width", "size", "scaled", "corner"),
    [
        (375, 500, 336, (252, 336), (42, 0)),
        (500, 375, 336, (336, 252), (0, 42)),
        (100, 100, 336, (336, 336), (0, 0)),
        (1, 10_000, 336, (1, 336), (167, 0)),
        (10_000, 1, 336, (336, 1), (0, 167)),
        (50, 25, 101, (101, 50), (0, 25)),
    ],
)
def test_plan_pad_centres_the_picture(
    height: int, width: int, size: int, scaled: tuple[int, int], corner: tuple[int, int]
) -> None:
    plan = plan_resize(height, width, ResizeConfig(policy=Policy.PAD, size=size))
    assert (plan.scaled, (plan.top, plan.left), plan.canvas) == (scaled, corner, (size, size))


@pytest.mark.parametrize(
    ("height", "width", "size", "upscale", "expected"),
    [
        (3000, 4000, 1000, False, (750, 1000)),
        (4000, 3000, 1000, False, (1000, 750)),
        (300, 400, 1000, False, (300, 400)),
        (300, 400, 1000, True, (750, 1000)),
        (300, 400, 400, False, (300, 400)),
        (1, 10_000, 1000, False, (1, 1000)),
        (1001, 1001, 1000, False, (1000, 1000)),
        (333, 1000, 500, False, (166, 500)),
    ],
)
def test_plan_fit_keeps_the_aspect(
    height: int, width: int, size: int, upscale: bool, expected: tuple[int, int]
) -> None:
    plan = plan_resize(height, width, ResizeConfig(policy=Policy.FIT, size=size, upscale=upscale))
    assert plan.canvas == plan.scaled == expected


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("patch", "budget"), [(16, 256), (14, 729), (16, 1), (32, 100)])
def test_plan_patch_budget_upscaling_equals_the_naflex_rule(
    height: int, width: int, patch: int, budget: int
) -> None:
    config = ResizeConfig(policy=Policy.PATCH_BUDGET, patch=patch, max_patches=budget, upscale=True)
    assert plan_resize(height, width, config).canvas == naflex_size(height, width, patch, budget)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("patch", "budget"), [(16, 256), (14, 729), (16, 1), (32, 100)])
def test_plan_patch_budget_stays_within_budget_and_source(
    height: int, width: int, patch: int, budget: int
) -> None:
    config = ResizeConfig(policy=Policy.PATCH_BUDGET, patch=patch, max_patches=budget)
    rows, columns = plan_resize(height, width, config).canvas
    assert rows % patch == columns % patch == 0
    assert 1 <= patches(rows, columns, patch) <= budget
    assert rows <= max(patch, height)
    assert columns <= max(patch, width)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(375, 500, (224, 288)), (100, 100, (96, 96)), (5, 5, (16, 16)), (256, 256, (256, 256))],
)
def test_plan_patch_budget_uses_the_budget(height: int, width: int, expected: tuple[int, int]) -> None:
    assert plan_resize(height, width, ResizeConfig(policy=Policy.PATCH_BUDGET)).canvas == expected


@pytest.mark.parametrize(
    ("height", "width", "patch", "expected"),
    [(16, 16, 16, 1), (17, 16, 16, 2), (1, 1, 14, 1), (224, 224, 14, 256), (225, 224, 14, 272)],
)
def test_patches_partial_patch_counts(height: int, width: int, patch: int, expected: int) -> None:
    assert patches(height, width, patch) == expected


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("config", CONFIGS)
def test_plan_any_size_stays_within_the_picture_and_the_canvas(
    height: int, width: int, config: ResizeConfig
) -> None:
    plan = plan_resize(height, width, config)
    assert min(*plan.scaled, *plan.canvas) >= 1
    for source, trim, scaled, canvas, corner in zip(
        plan.source, plan.trim, plan.scaled, plan.canvas, (plan.top, plan.left), strict=True
    ):
        assert source - 2 * trim >= 1
        assert corner <= 0 <= scaled + corner - canvas or 0 <= corner <= canvas - scaled


@pytest.mark.parametrize(("height", "width"), [size for size in SIZES if size[0] * size[1] < 10**6])
@pytest.mark.parametrize("config", CONFIGS)
def test_apply_any_size_fills_the_canvas(height: int, width: int, config: ResizeConfig) -> None:
    image = np.full((height, width, 3), (10, 120, 240), dtype=np.uint8)
    plan = plan_resize(height, width, config)
    seen = apply(image, plan)
    assert seen.shape == (*plan.canvas, 3)
    assert seen.flags.c_contiguous
    inside = seen[max(plan.top, 0) :, max(plan.left, 0) :][: plan.scaled[0], : plan.scaled[1]]
    assert np.abs(inside.astype(int) - (10, 120, 240)).max() <= 1


def test_apply_pad_background_surrounds_the_picture() -> None:
    config = ResizeConfig(policy=Policy.PAD, size=40, background=(1, 2, 3))
    seen = view(np.full((10, 20, 3), 200, dtype=np.uint8), (10, 20), config)
    assert (seen[:10] == (1, 2, 3)).all()
    assert (seen[30:] == (1, 2, 3)).all()
    assert (seen[10:30] == 200).all()


def test_apply_exact_fit_leaves_the_pixels_alone() -> None:
    image = photo("astronaut")
    assert np.array_equal(view(image, (512, 512), ResizeConfig(size=512)), image)


# The thresholds are a decibel below what was measured; INTER_AREA and plain INTER_CUBIC miss them.
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
@pytest.mark.parametrize("shrink", [1.2, 1.67, 2.5, 4.0, 5.3])
@pytest.mark.parametrize(("kind", "least"), [(Filter.BICUBIC, 36.0), (Filter.BILINEAR, 42.0)])
def test_apply_shrinking_a_photo_agrees_with_pillow(
    name: str, shrink: float, kind: Filter, least: float
) -> None:
    image = photo(name)
    size = (round(image.shape[0] / shrink), round(image.shape[1] / shrink))
    plan = ResizePlan((image.shape[0], image.shape[1]), size, size, filter=kind)
    assert psnr(apply(image, plan), pillow(image, size, kind)) > least


@pytest.mark.parametrize(("kind", "least"), [(Filter.BICUBIC, 42.0), (Filter.BILINEAR, 50.0)])
def test_apply_enlarging_a_photo_agrees_with_pillow(kind: Filter, least: float) -> None:
    image = photo("chelsea")
    size = (450, 677)
    plan = ResizePlan((300, 451), size, size, filter=kind)
    assert psnr(apply(image, plan), pillow(image, size, kind)) > least


@pytest.mark.parametrize("reduction", [2, 4])
def test_apply_reduced_picture_agrees_with_the_full_one(reduction: int) -> None:
    image = photo("astronaut")[:509, :511]
    size = (509 // (2 * reduction), 511 // (2 * reduction))
    plan = ResizePlan((509, 511), size, size)
    assert plan.reduction == reduction
    padded = cv2.copyMakeBorder(image, 0, 3, 0, 1, cv2.BORDER_REPLICATE)
    reduced = np.asarray(
        cv2.resize(padded, (512 // reduction, 512 // reduction), interpolation=cv2.INTER_AREA), dtype=np.uint8
    )
    assert psnr(apply(reduced, plan, reduction), pillow(image, size, Filter.BICUBIC)) > 35


@pytest.mark.parametrize(
    ("source", "size", "expected"),
    [
        (224, 224, 1),
        (895, 224, 1),
        (896, 224, 2),
        (1791, 224, 2),
        (1792, 224, 4),
        (3584, 224, 8),
        (100, 224, 1),
    ],
)
def test_plan_reduction_leaves_twice_the_final_size(source: int, size: int, expected: int) -> None:
    assert plan_resize(source, source, ResizeConfig(size=size)).reduction == expected


def test_detail_score_rises_from_flat_to_gradient_to_photo_to_noise() -> None:
    flat = np.full((400, 600, 3), 120, dtype=np.uint8)
    ramp = np.linspace(0, 255, 600).astype(np.uint8)
    gradient = np.repeat(np.tile(ramp, (400, 1))[:, :, None], 3, axis=2)
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    scores = [detail_score(image) for image in (flat, gradient, photo("rocket"), photo("chelsea"), noise)]
    assert scores[0] == scores[1] == 0
    assert scores == sorted(scores)
    assert 0.1 < scores[2] < 0.5 < scores[3] < scores[4] == 1


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket", "moon"])
@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_detail_score_of_another_resolution_stays(name: str, factor: float) -> None:
    image = photo(name)
    filter_ = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    other = np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=filter_), dtype=np.uint8)
    assert detail_score(other) == pytest.approx(detail_score(image), abs=0.1)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (2, 3), (64, 64)])
def test_detail_score_tiny_picture_is_a_score(height: int, width: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert 0 <= detail_score(image) <= 1


def test_view_plain_picture_gets_half_the_patches_of_a_busy_one() -> None:
    config = ResizeConfig(policy=Policy.PATCH_BUDGET, plain_share=0.5, max_patches=256)
    plain = view(np.full((512, 512, 3), 200, dtype=np.uint8), (512, 512), config)
    busy = view(photo("astronaut"), (512, 512), config)
    assert patches(plain.shape[0], plain.shape[1], 16) == 121
    assert patches(busy.shape[0], busy.shape[1], 16) == 256


@pytest.mark.parametrize(("detail", "expected"), [(0.0, 50), (0.5, 75), (1.0, 100)])
def test_patch_budget_grows_with_detail(detail: float, expected: int) -> None:
    config = ResizeConfig(policy=Policy.PATCH_BUDGET, plain_share=0.5, max_patches=100)
    assert patch_budget(config, detail) == expected


def test_patch_budget_smallest_share_leaves_one_patch() -> None:
    assert patch_budget(ResizeConfig(plain_share=0.01, max_patches=1), 0.0) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "resize.size must be at least 1, got 0"),
        ({"crop": -1}, "resize.crop must be at least 1, got -1"),
        ({"size": 224, "crop": 256}, r"resize.crop must be at most resize.size \(224\), got 256"),
        ({"height": 5}, "resize.height and resize.width must be set together"),
        ({"height": 0, "width": 5}, "resize.height must be at least 1, got 0"),
        ({"patch": 0}, "resize.patch must be at least 1, got 0"),
        ({"max_patches": 0}, "resize.max_patches must be at least 1, got 0"),
        ({"plain_share": 0.0}, "resize.plain_share must be above 0 and at most 1, got 0.0"),
        ({"plain_share": 1.5}, "resize.plain_share must be above 0 and at most 1, got 1.5"),
        ({"background": (0, 0, 256)}, "resize.background must be three levels from 0 to 255"),
        ({"background": (0, 0)}, "resize.background must be three levels from 0 to 255"),
    ],
)
def test_config_impossible_value_names_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        ResizeConfig(**values)


def test_config_background_as_a_list_equals_the_tuple() -> None:
    as_list: Any = [1, 2, 3]
    assert ResizeConfig(background=as_list) == ResizeConfig(background=(1, 2, 3))
    assert hash(ResizeConfig(background=as_list)) == hash(ResizeConfig(background=(1, 2, 3)))
