"""Adaptive resizing: arithmetic that plans a resize, and one function that applies the plan."""

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import cv2
import numpy as np

from stages.base import Image
from stages.detail import detail_score


class Policy(StrEnum):
    SQUARE = "square"  # shortest side to `size`, then the centre `crop` x `crop`: CLIP, ViT, DINO
    SQUASH = "squash"  # to `height` x `width` (or `size` x `size`), aspect ratio given up: SigLIP
    PAD = "pad"  # longest side to `size`, then padded to `size` x `size`: LLaVA
    FIT = "fit"  # longest side at most `size`: what processors of vision-language models are given
    PATCH_BUDGET = "patch_budget"  # whole patches, at most `max_patches` of them: NaFlex models


class Filter(StrEnum):
    """The antialiased filters of Pillow, as image processors of transformers use them."""

    BICUBIC = "bicubic"
    BILINEAR = "bilinear"


@dataclass(frozen=True)
class ResizeConfig:
    """What one view of an image is. Raises ValueError for a value that no image can satisfy."""

    policy: Policy = Policy.SQUARE
    size: int = 224
    crop: int | None = None  # square: side of the centre crop; `size` if unset
    height: int | None = None  # squash: both or neither
    width: int | None = None
    background: tuple[int, int, int] = (255, 255, 255)  # pad: RGB
    patch: int = 16  # patch_budget: pixels per side of a patch
    max_patches: int = 256
    plain_share: float = 1.0  # patch_budget: share of max_patches for a picture without detail
    upscale: bool = False  # fit and patch_budget: enlarge small images too
    filter: Filter = Filter.BICUBIC

    def __post_init__(self) -> None:
        object.__setattr__(self, "background", tuple(self.background))
        for key in ("size", "crop", "height", "width", "patch", "max_patches"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"resize.{key} must be at least 1, got {value}")
        if self.crop is not None and self.crop > self.size:
            raise ValueError(f"resize.crop must be at most resize.size ({self.size}), got {self.crop}")
        if (self.height is None) != (self.width is None):
            raise ValueError("resize.height and resize.width must be set together")
        if not 0 < self.plain_share <= 1:
            raise ValueError(f"resize.plain_share must be above 0 and at most 1, got {self.plain_share}")
        if len(self.background) != 3 or not all(0 <= level <= 255 for level in self.background):
            raise ValueError(f"resize.background must be three levels from 0 to 255, got {self.background}")

    @property
    def needs_detail(self) -> bool:
        """Whether the plan depends on the pixels, and not only on their number."""
        return self.policy is Policy.PATCH_BUDGET and self.plain_share < 1


@dataclass(frozen=True)
class ResizePlan:
    """How a picture becomes a view: trim the source, scale it, place it on a canvas. All in pixels.

    `top` and `left` say where the corner of the scaled picture lies on the canvas: negative values
    crop it, positive ones pad it.
    """

    source: tuple[int, int]  # height and width of the picture
    scaled: tuple[int, int]  # height and width after scaling
    canvas: tuple[int, int]  # height and width of the result
    top: int = 0
    left: int = 0
    trim: tuple[int, int] = (0, 0)  # rows and columns taken off each of two opposite sides first
    background: tuple[int, int, int] = (255, 255, 255)
    filter: Filter = Filter.BICUBIC

    @property
    def reduction(self) -> int:
        """1, 2, 4 or 8: at what part of its size a decoder may deliver the picture.

        At least twice the final size has to be left. Shrunk photos then agree with Pillow's full
        bicubic as well as without reduction (by 4: 42.6 dB against 42.7, by 8: 40.5 against 40.4);
        with 1.5 times left they lose 2.7 dB, with the bare size 4 to 5.
        """
        shrink = min((self.source[axis] - 2 * self.trim[axis]) / self.scaled[axis] for axis in (0, 1))
        return next((factor for factor in (8, 4, 2) if shrink >= 2 * factor), 1)


def plan_resize(height: int, width: int, config: ResizeConfig, detail: float | None = None) -> ResizePlan:
    """How an upright picture of `height` x `width` becomes the view `config`.

    `detail` is its `detail_score`; without it the picture counts as a busy one.
    """
    match config.policy:
        case Policy.SQUARE:
            return _plan_square(height, width, config)
        case Policy.SQUASH:
            canvas = (config.height or config.size, config.width or config.size)
            return ResizePlan((height, width), canvas, canvas, filter=config.filter)
        case Policy.PAD:
            return _plan_pad(height, width, config)
        case Policy.FIT:
            scaled = _fit(height, width, config.size, config.upscale)
            return ResizePlan((height, width), scaled, scaled, filter=config.filter)
        case Policy.PATCH_BUDGET:
            budget = patch_budget(config, 1.0 if detail is None else detail)
            scaled = _fit_patches(height, width, config.patch, budget, config.upscale)
            return ResizePlan((height, width), scaled, scaled, filter=config.filter)


def patch_budget(config: ResizeConfig, detail: float) -> int:
    """Patches that a picture with this detail score (0 to 1) may have: at least 1."""
    share = config.plain_share + (1 - config.plain_share) * detail
    return max(1, round(config.max_patches * share))


def patches(height: int, width: int, patch: int) -> int:
    """Patches of `patch` x `patch` pixels that cover a picture."""
    return math.ceil(height / patch) * math.ceil(width / patch)


def _plan_square(height: int, width: int, config: ResizeConfig) -> ResizePlan:
    crop, short = config.crop or config.size, min(height, width)
    # Of a strip only the middle is scaled, or a 1 x 10,000 picture would become 224 x 2,240,000
    # on its way. Equal trims leave the centre where it is; 4 sides are beyond any usual photo.
    limit = 4 * short
    trim = (max(0, (height - limit) // 2), max(0, (width - limit) // 2))
    rows, columns = height - 2 * trim[0], width - 2 * trim[1]
    # The long side is rounded down, and the odd pixel cropped off the far end, as transformers does.
    scaled = (config.size * rows // short, config.size * columns // short)
    return ResizePlan(
        (height, width),
        scaled,
        (crop, crop),
        top=-((scaled[0] - crop) // 2),
        left=-((scaled[1] - crop) // 2),
        trim=trim,
        filter=config.filter,
    )


def _plan_pad(height: int, width: int, config: ResizeConfig) -> ResizePlan:
    scaled = _fit(height, width, config.size, upscale=True)
    return ResizePlan(
        (height, width),
        scaled,
        (config.size, config.size),
        top=(config.size - scaled[0]) // 2,
        left=(config.size - scaled[1]) // 2,
        background=config.background,
        filter=config.filter,
    )


def _fit(height: int, width: int, size: int, upscale: bool) -> tuple[int, int]:
    long = max(height, width)
    if long <= size and not upscale:
        return height, width
    return max(1, round(height * size / long)), max(1, round(width * size / long))


@lru_cache(maxsize=4096)
def _fit_patches(height: int, width: int, patch: int, budget: int, upscale: bool) -> tuple[int, int]:
    """The bisection of transformers' SigLIP2 processor, so that `upscale` gives its very sizes.

    Without `upscale` no side grows past its whole patches, except to one patch.
    """
    most = (math.inf, math.inf) if upscale else (height // patch, width // patch)

    def sides(scale: float) -> tuple[int, int]:
        rows, columns = (
            max(1, int(min(limit, math.ceil(side * scale / patch))))
            for side, limit in zip((height, width), most, strict=True)
        )
        return rows, columns

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        scale = (low + high) / 2
        rows, columns = sides(scale)
        low, high = (scale, high) if rows * columns <= budget else (low, scale)
    rows, columns = sides(low)
    return rows * patch, columns * patch


def apply(image: Image, plan: ResizePlan, reduction: int = 1) -> Image:
    """The view of `image`: uint8 [*plan.canvas, 3], contiguous. May be `image` itself.

    `image` is the picture of `plan.source`, or what a decoder made of it at 1 / `reduction` of its
    size, rounded up.
    """
    scaled = _scale(image, plan, reduction)
    if plan.scaled == plan.canvas:
        return scaled
    height, width = plan.canvas
    if plan.scaled[0] >= height and plan.scaled[1] >= width:
        return np.ascontiguousarray(scaled[-plan.top :, -plan.left :][:height, :width])
    canvas = np.empty((height, width, 3), dtype=np.uint8)
    canvas[:] = plan.background
    canvas[plan.top : plan.top + plan.scaled[0], plan.left : plan.left + plan.scaled[1]] = scaled
    return canvas


def view(image: Image, size: tuple[int, int], config: ResizeConfig, reduction: int = 1) -> Image:
    """The view `config` of a picture of `size` (height, width) that was decoded at 1 / `reduction`."""
    detail = detail_score(image) if config.needs_detail else None
    return apply(image, plan_resize(*size, config, detail), reduction)


# Standard deviation of a Gaussian that turns OpenCV's cubic, which does not smooth what it shrinks,
# into Pillow's filter: so many source pixels for each that one pixel of the result spans. The best
# values at every one of 14 scales from 1.05 to 6. On photos shrunk by 1.67 (500 x 375 to 224),
# against Pillow's bicubic, with milliseconds on one core (Pillow itself: 2.9):
#   this 43.0 dB, 0.58 ms   INTER_AREA 42.7 dB, 1.38 ms   cubic 32.9 dB, 0.27 ms   linear 36.0 dB, 0.22 ms
# against Pillow's bilinear: this 46.2 dB, INTER_AREA 40.0 dB. Shrunk by 6: 40.7 dB (INTER_AREA 39.3),
# bilinear 49.1 dB (36.3). Enlarged by 1.1 to 4: 47 dB (cubic alone 46), bilinear 54 dB.
_SIGMA = {Filter.BICUBIC: 0.36, Filter.BILINEAR: 0.42}
_NO_BLUR = 0.25  # a Gaussian this narrow leaves 99.9% of a pixel where it is
_WARP_LIMIT = 32766  # warpAffine counts pixels in 16 bits


@dataclass(frozen=True)
class _Axis:
    """One axis of a resize: which pixels of the image, how they are averaged, where results lie."""

    start: int
    stop: int
    box: int  # so many pixels are averaged first
    sigma: float  # of the Gaussian, in averages
    scale: float  # averages from one pixel of the result to the next
    offset: float  # the average, counted from 0, under the first pixel of the result
    exact: bool  # the averages cover the trimmed picture to the pixel


def _axis(side: int, axis: int, plan: ResizePlan, reduction: int) -> _Axis:
    """`side` pixels of the image along `axis`, planned.

    Boxes shrink a large picture to no less than twice its final size. With their own smoothing
    taken off the Gaussian that costs a third and stays within 0.3 dB (shrunk by 4 to 11). A
    decoder's reduction counts as such a box: 42.6 dB against 42.7 from a full decode.
    """
    source, trim, target = plan.source[axis], plan.trim[axis], plan.scaled[axis]
    step = (source - 2 * trim) / target
    box = max(1, int(step / reduction / 2))
    factor = box * reduction
    start = trim // reduction
    count = (min(side, math.ceil((source - trim) / reduction)) - start) // box
    variance = (_SIGMA[plan.filter] * max(1.0, step)) ** 2 - (factor**2 - 1) / 12
    return _Axis(
        start,
        start + count * box,
        box,
        sigma=math.sqrt(max(0.0, variance)) / factor,
        scale=step / factor,
        offset=(trim - start * reduction + step / 2) / factor - 0.5,
        exact=start * reduction == trim and count * factor == source - 2 * trim,
    )


def _scale(image: Image, plan: ResizePlan, reduction: int) -> Image:
    rows, columns = (_axis(image.shape[axis], axis, plan, reduction) for axis in (0, 1))
    image = image[rows.start : rows.stop, columns.start : columns.stop]
    if image.shape[:2] == plan.scaled and rows.exact and columns.exact:
        return np.ascontiguousarray(image)
    if plan.filter is Filter.BILINEAR and max(rows.scale, columns.scale) <= 1:
        return _array(cv2.resize(image, plan.scaled[::-1], interpolation=cv2.INTER_LINEAR))
    if rows.box > 1 or columns.box > 1:
        size = (image.shape[1] // columns.box, image.shape[0] // rows.box)
        image = _array(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    if max(rows.sigma, columns.sigma) > _NO_BLUR:
        sigmas = max(columns.sigma, 0.01), max(rows.sigma, 0.01)  # 0 would mean: as the other one
        image = _array(
            cv2.GaussianBlur(image, (0, 0), sigmas[0], sigmaY=sigmas[1], borderType=cv2.BORDER_REPLICATE)
        )
    if (rows.exact and columns.exact) or max(image.shape) > _WARP_LIMIT:
        return _array(cv2.resize(image, plan.scaled[::-1], interpolation=cv2.INTER_CUBIC))
    # Where a fraction of a pixel is missing at the edge, resize would stretch the rest over it.
    inverse = np.array([[columns.scale, 0, columns.offset], [0, rows.scale, rows.offset]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return _array(
        cv2.warpAffine(image, inverse, plan.scaled[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    )


def _array(pixels: object) -> Image:
    return np.asarray(pixels, dtype=np.uint8)
