"""Pictures that an encoder fails on, and memory that runs out, at the edge of real towers."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from stages.base import Image, notes_of, pack_views
from stages.batching import OnOom
from stages.checkpoints import Device
from stages.embed import EmbedConfig, EmbedError, EmbedImages, EmbedRun
from tests.stages.poison import fault, is_white, on_white, white
from tests.stages.tiny_encoders import SIDE, save_encoder

RUN = EmbedRun(batch_size=4, device=Device.CPU, threads=1)
ROWS = 7
ROOT = Path(__file__).parents[2]
OUT_OF_MEMORY = "the model runs out of memory on this image"


@pytest.fixture(scope="module", params=["vit", "siglip2"])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EmbedConfig:
    return EmbedConfig(str(save_encoder(tmp_path_factory.mktemp(request.param), request.param)))


@pytest.fixture(scope="module")
def reader(config: EmbedConfig) -> type[torch.nn.Module]:
    """What reads the pixels: NaFlex cuts them into patches first."""
    return torch.nn.Linear if "siglip2" in config.model else torch.nn.Conv2d


def pictures(*poison: int) -> list[Image]:
    random = np.random.default_rng(3)
    noise = [random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(ROWS)]
    return [white(image) if row in poison else image for row, image in enumerate(noise)]


def shard(images: Sequence[Image]) -> pa.Table:
    ends = {"status": ["ok"] * len(images), "error": pa.nulls(len(images), pa.string())}
    return pa.table({**ends, "view:small": pack_views(images)})


def rows_of(stage: EmbedImages, images: Sequence[Image]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = stage(shard(images))["embedding"].to_pylist()
    return rows


def vectors(rows: Sequence[dict[str, Any]]) -> npt.NDArray[np.float32]:
    return np.array([row["embedding"] for row in rows], dtype=np.float32)


@pytest.mark.parametrize("poison", [{0}, {3}, {6}, {2, 5}, {0, 1, 2, 3}], ids=str)
def test_embed_pictures_that_the_model_raises_on_fail_alone(
    config: EmbedConfig, reader: type[torch.nn.Module], poison: set[int]
) -> None:
    stage, good = EmbedImages(config, RUN, "small"), [row for row in range(ROWS) if row not in poison]
    undisturbed = rows_of(stage, pictures())
    with fault(reader, raises=on_white):
        made = rows_of(stage, pictures(*poison))
    np.testing.assert_allclose(
        vectors([made[row] for row in good]), vectors([undisturbed[row] for row in good]), atol=1e-3
    )
    assert {(made[row]["status"], made[row]["error"]) for row in good} == {("ok", None)}
    error = "RuntimeError: a white picture in a tensor at"
    assert [made[row] for row in sorted(poison)] == [
        {"embedding": None, "status": "failed", "error": error}
    ] * len(poison)


def test_embed_only_pictures_that_the_model_raises_on_are_all_rows(
    config: EmbedConfig, reader: type[torch.nn.Module]
) -> None:
    with fault(reader, raises=on_white):
        made = rows_of(EmbedImages(config, RUN, "small"), pictures(*range(ROWS)))
    assert [row["status"] for row in made] == ["failed"] * ROWS


@pytest.mark.parametrize("count", [1, ROWS])
def test_embed_model_that_raises_on_any_picture_raises(
    config: EmbedConfig, reader: type[torch.nn.Module], count: int
) -> None:
    def broken(pixels: torch.Tensor) -> None:
        raise RuntimeError("a broken kernel")

    with fault(reader, raises=broken), pytest.raises(RuntimeError, match="a broken kernel"):
        rows_of(EmbedImages(config, RUN, "small"), pictures()[:count])


def test_embed_vectors_that_are_not_finite_fail_alone(
    config: EmbedConfig, reader: type[torch.nn.Module]
) -> None:
    def spoil(pixels: torch.Tensor) -> None:
        pixels[is_white(pixels)] = float("nan")

    stage, good = EmbedImages(config, RUN, "small"), [0, 2, 3, 5, 6]
    undisturbed = rows_of(stage, pictures())
    with fault(reader, raises=spoil):
        made = rows_of(stage, pictures(1, 4))
        alone = rows_of(stage, pictures(1)[1:2])
    np.testing.assert_allclose(
        vectors([made[row] for row in good]), vectors([undisturbed[row] for row in good]), atol=1e-3
    )
    failed = {"embedding": None, "status": "failed", "error": "the embedding is not finite"}
    assert [made[1], made[4], *alone] == [failed] * 3


def test_embed_vectors_that_are_never_finite_raise(
    config: EmbedConfig, reader: type[torch.nn.Module]
) -> None:
    def spoil(pixels: torch.Tensor) -> None:
        pixels.fill_(float("nan"))

    with fault(reader, raises=spoil), pytest.raises(EmbedError, match="not finite"):
        rows_of(EmbedImages(config, RUN, "small"), pictures())


def room_for(count: int) -> Callable[[torch.Tensor], None]:
    def check(pixels: torch.Tensor) -> None:
        if len(pixels) > count:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return check


def test_embed_out_of_memory_keeps_the_batch_size_that_worked_and_says_so(
    config: EmbedConfig, reader: type[torch.nn.Module]
) -> None:
    stage = EmbedImages(config, RUN, "small")
    undisturbed = stage(shard(pictures()))
    with fault(reader, raises=room_for(2)):
        first = rows_of(stage, pictures())
    with fault(reader, raises=room_for(2)) as lengths:
        second = stage(shard(pictures()))
    expected = vectors(undisturbed["embedding"].to_pylist())
    np.testing.assert_allclose(vectors(first), expected, atol=1e-3)
    np.testing.assert_allclose(vectors(second["embedding"].to_pylist()), expected, atol=1e-3)
    assert max(lengths) == 2
    assert notes_of(undisturbed) == []
    assert notes_of(second) == ["batch size 4 ran out of memory, 2 is used"]


def no_room_for_white(times: int) -> Callable[[torch.Tensor], None]:
    left = iter(range(times))

    def check(pixels: torch.Tensor) -> None:
        if is_white(pixels).any() and next(left, None) is not None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return check


def test_embed_picture_out_of_memory_alone_is_a_row_and_leaves_the_batch_size(
    config: EmbedConfig, reader: type[torch.nn.Module]
) -> None:
    stage = EmbedImages(config, RUN, "small")
    with fault(reader, raises=no_room_for_white(100)) as lengths:
        made = rows_of(stage, pictures(2))
        lengths.clear()
        rows_of(stage, pictures())
    assert made[2] == {"embedding": None, "status": "too_large", "error": OUT_OF_MEMORY}
    assert [row["status"] for row in made].count("ok") == ROWS - 1
    assert max(lengths) == RUN.batch_size


def test_embed_picture_out_of_memory_alone_on_the_cpu_has_its_vector(
    config: EmbedConfig, reader: type[torch.nn.Module]
) -> None:
    """The picture fails among 4, among 2, and alone twice; what comes after that is its pass on the CPU."""
    stage = EmbedImages(config, dataclasses.replace(RUN, on_oom=OnOom.CPU), "small")
    undisturbed = rows_of(stage, pictures(2))
    with fault(reader, raises=no_room_for_white(3)):
        made = stage(shard(pictures(2)))
    rows = made["embedding"].to_pylist()
    np.testing.assert_allclose(vectors(rows), vectors(undisturbed), atol=1e-3)
    assert "CPU" in notes_of(made)[0]


@pytest.mark.slow
def test_embed_real_allocations_that_fail_lower_the_batch_size(tmp_path: Path) -> None:
    """A limit on the address space that a batch of 1024 pictures of 96 x 96 does not fit into."""
    save_encoder(tmp_path, "vit")
    script = Path(__file__).with_name("embed_in_little_memory.py")
    command = [sys.executable, str(script), str(tmp_path)]
    # glibc gives freed blocks back to the system at once, so that none of before serve within the limit.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
    made = json.loads(done.stdout)
    assert made["statuses"] == ["ok"]
    assert made["worst_cosine"] > 0.999
    assert re.fullmatch(r"batch size 1024 ran out of memory, \d+ is used", "".join(made["notes"]))
