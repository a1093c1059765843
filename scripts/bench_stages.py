"""Decoding and embedding against the same work done bare; prints one JSON object a line of the table.

The stage and the bare loops take turns in one process on one thread, over the same bytes. Each turn gives
one ratio of CPU seconds, and the median of the ratios counts, so a busy machine disturbs it little.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import cv2
import numpy as np
import psutil
import pyarrow as pa
import skimage.data
import torch

from stages.base import Image, StageFactory, pack_views, view_column
from stages.chain import run_chain
from stages.checkpoints import resolve
from stages.codecs.pixels import read_header
from stages.decode import DecodeConfig, DecodeImages, DecodeRun
from stages.embed import EmbedConfig, EmbedImages, EmbedRun, encoder_view
from stages.isolate import Isolated, IsolationConfig
from stages.resize import ResizeConfig, plan_resize
from stages.sources.config import SourceConfig, SourceRun
from stages.sources.folder import ReadFolder
from stages.towers import load_image_tower, pooled

Row: TypeAlias = dict[str, Any]
"""One line of the table: what, against, ratio, goal, measured."""

PHOTOGRAPHS = (
    "astronaut",
    "chelsea",
    "coffee",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "rocket",
)
SMALL, LARGE = (375, 500), (1944, 2592)  # the usual photo of ImageNet; 5 megapixels
SIDE = 224


# Photographs


def synthesise(size: tuple[int, int], count: int, seed: int) -> list[bytes]:
    """JPEGs of `size` (height, width), some upright, some not, cut out of scikit-image's photographs."""
    rng = np.random.default_rng((seed, *size))
    sources = [np.asarray(getattr(skimage.data, name)(), dtype=np.uint8) for name in PHOTOGRAPHS]
    return [_photograph(sources[int(rng.integers(len(sources)))], size, rng) for _ in range(count)]


def _photograph(source: Image, size: tuple[int, int], rng: np.random.Generator) -> bytes:
    height, width = size if rng.random() < 0.7 else size[::-1]
    zoom = rng.uniform(0.6, 1.0) * min(source.shape[0] / height, source.shape[1] / width)
    rows, columns = int(height * zoom), int(width * zoom)
    top, left = (
        int(rng.integers(spare + 1)) for spare in (source.shape[0] - rows, source.shape[1] - columns)
    )
    cut = source[top : top + rows, left : left + columns]
    pixels = cv2.resize(cut, (width, height), interpolation=cv2.INTER_CUBIC if zoom < 1 else cv2.INTER_AREA)
    # Grain, as every sensor has: enlarged pictures without it take half the bytes a pixel of real ones.
    grain = rng.normal(0, 6, (height, width, 1)).astype(np.float32)
    pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(85, 96))]
    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)[1].tobytes()


# Decode and resize, one core

REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def crop_and_area(data: bytes, reduction: int) -> Image:
    """The fastest call that shrinks without aliasing.

    On 63 photos, against Pillow's bicubic of the same square: 42.6 dB, 0.85 ms. INTER_LINEAR, which skips
    pixels, has 36.8 dB and in the worst photo 28; scaling all of the picture before the crop takes 1.14 ms.
    """
    return _resized(_centre(data, reduction), cv2.INTER_AREA, reduction)


def crop_blur_and_cubic(data: bytes, reduction: int) -> Image:
    """The fastest way known, two calls: Darkroom's own. 43.9 dB, 0.44 ms.

    The Gaussian is as wide as Pillow's filter, less what the decoder's reduction has smoothed already.
    """
    pixels = _centre(data, reduction)
    step = max(1.0, pixels.shape[0] / SIDE * reduction)
    sigma = max(0.01, (0.36 * step) ** 2 - (reduction**2 - 1) / 12) ** 0.5 / reduction
    return _resized(cv2.GaussianBlur(pixels, (0, 0), sigma), cv2.INTER_CUBIC, reduction)


def _centre(data: bytes, reduction: int) -> Any:
    pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), REDUCED[reduction])
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _resized(square: Any, interpolation: int, reduction: int) -> Image:
    small = cv2.resize(square, (SIDE, SIDE), interpolation=interpolation)
    # A reduced decode comes as BGR only; turned around once it is small.
    turned = small if reduction == 1 else cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
    return np.asarray(turned, dtype=np.uint8)


BARE = {"imdecode, INTER_AREA": crop_and_area, "imdecode, blur, INTER_CUBIC": crop_blur_and_cubic}


def decode_rows(what: str, photos: Sequence[bytes], rounds: int) -> Iterator[Row]:
    """The stage on a shard of photographs against bare loops over the same bytes."""
    cv2.setNumThreads(1)
    view = ResizeConfig(size=SIDE)
    # The bare loops are told what the stage has to find out.
    reductions = [plan_resize(*read_header(data).upright, view).reduction for data in photos]
    stage, shard = DecodeImages(DecodeConfig(), DecodeRun(), {"square": view}), _shard(photos)
    work: dict[str, Callable[[], object]] = {"stage": lambda: stage(shard)}
    for name, call in BARE.items():
        work[name] = partial(_loop, call, photos, reductions)
    seconds = interleaved(work, rounds, time.process_time)
    rates = {name: len(photos) / median(spent) for name, spent in seconds.items()}
    for name, goal in zip(BARE, (0.95, None), strict=True):
        yield {
            "what": f"decode + resize, one core, {what}",
            "against": name,
            "ratio": ratio(seconds, name, "stage"),
            "goal": goal,
            "measured": f"{rates['stage']:,.0f} of {rates[name]:,.0f} images/s",
        }


def _loop(call: Callable[[bytes, int], Image], photos: Sequence[bytes], reductions: Sequence[int]) -> None:
    for data, reduction in zip(photos, reductions, strict=True):
        call(data, reduction)


def _shard(photos: Sequence[bytes]) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array(range(len(photos)), pa.int64()),
            "uri": [f"{row}.jpg" for row in range(len(photos))],
            "bytes": pa.array(photos, pa.large_binary()),
            "status": ["ok"] * len(photos),
            "error": pa.nulls(len(photos), pa.string()),
        }
    )


def interleaved(
    work: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round: all of them in turn, so that none has the quiet minute."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, run in work.items():
            start = clock()
            run()
            if turn:  # the first is to warm up
                seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], bare: str, ours: str) -> float:
    return median(one / other for one, other in zip(seconds[bare], seconds[ours], strict=True))


# The decode step in a process apart


def isolation_row(what: str, photos: Sequence[bytes], rounds: int) -> Row:
    """Reading and decoding in their own process, as a night does it, against the same stages in this one."""
    with TemporaryDirectory() as folder:
        for row, data in enumerate(photos):
            Path(folder, f"{row}.jpg").write_bytes(data)
        stages: dict[str, StageFactory] = {
            "read": partial(ReadFolder, SourceConfig(folder), SourceRun()),
            "decode": partial(DecodeImages, DecodeConfig(), DecodeRun(), {"square": ResizeConfig(size=SIDE)}),
        }
        rows = pa.table({"image_id": range(len(photos)), "uri": [f"{row}.jpg" for row in range(len(photos))]})
        bare, isolated = {name: make() for name, make in stages.items()}, Isolated(stages, IsolationConfig())
        work: dict[str, Callable[[], object]] = {
            "stage": lambda: isolated(rows),
            "bare": lambda: run_chain(rows, bare),
        }
        (child,) = psutil.Process().children()
        seconds = interleaved(work, rounds, lambda: time.process_time() + _seconds_of(child.pid))
    rates = [len(photos) / median(seconds[name]) for name in ("stage", "bare")]
    return {
        "what": f"read, decode + resize in a process apart, {what}",
        "against": "the same stages without one",
        "ratio": ratio(seconds, "bare", "stage"),
        "goal": 0.95,
        "measured": f"{rates[0]:,.0f} of {rates[1]:,.0f} images/s",
    }


def _seconds_of(process: int) -> float:
    """CPU seconds of another process, by its own clock: what /proc says has steps of 10 ms."""
    return time.clock_gettime(~process << 3 | 2)  # as clock_getcpuclockid(3) makes it


# Embedding


def embed_row(model: str, pictures: int, rounds: int) -> Row:
    """The stage on packed views against the model's forward on tensors that are ready on its device."""
    config, run = EmbedConfig(model), EmbedRun(threads=1)
    view = encoder_view(config)
    height, width = view.height or view.size, view.width or view.size
    images = list(np.random.default_rng(0).integers(0, 256, (pictures, height, width, 3), dtype=np.uint8))
    ends = {"status": ["ok"] * pictures, "error": pa.nulls(pictures, pa.string())}
    shard = pa.table({**ends, view_column("all"): pack_views(images)})
    stage, tower = EmbedImages(config, run, "all"), load_image_tower(resolve(model), config.dtype, run.device)
    tensors = torch.randn(pictures, 3, height, width, device=tower.device, dtype=tower.dtype)
    on_gpu = tower.device.type == "cuda"

    @torch.inference_mode()
    def forward() -> None:
        for batch in torch.split(tensors, run.batch_size):
            last = pooled(tower(pixel_values=batch))
        last.cpu()  # waits for the device

    work: dict[str, Callable[[], object]] = {"stage": lambda: stage(shard), "bare": forward}
    seconds = interleaved(work, rounds, time.perf_counter if on_gpu else time.process_time)
    rates = [pictures / median(seconds[name]) for name in ("stage", "bare")]
    return {
        "what": f"embed, one thread, {Path(model).name} on {tower.device.type}",
        "against": "the model alone, on tensors that are ready",
        "ratio": ratio(seconds, "bare", "stage"),
        "goal": None,
        "measured": f"{rates[0]:,.0f} of {rates[1]:,.0f} images/s",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of JPEG files to decode as well")
    parser.add_argument("--encoder", default="pocket:encoder", help="model to embed with")
    parser.add_argument("--quick", action="store_true", help="fewer pictures and turns")
    options = parser.parse_args()
    part, rounds = (8, 3) if options.quick else (1, 9)
    sets = {
        "photos of 500 x 375": synthesise(SMALL, 256 // part, seed=0),
        "photos of 5 megapixels": synthesise(LARGE, 32 // part, seed=0),
    }
    if options.photos:
        sets["your photos"] = [path.read_bytes() for path in sorted(options.photos.iterdir())]
    for what, photos in sets.items():
        for row in decode_rows(what, photos, rounds):
            print(json.dumps(row))
    print(json.dumps(isolation_row("photos of 500 x 375", sets["photos of 500 x 375"], rounds)))
    print(json.dumps(embed_row(options.encoder, 512 // part, rounds)))


if __name__ == "__main__":
    main()
