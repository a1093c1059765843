"""Counting patches: what the budget cost, and what it would have cost without regard to detail."""

import numpy as np
import pyarrow as pa
import pytest

from stages import resize
from stages.base import Image, pack_views, view_column
from stages.count import CountPatches
from stages.resize import Policy, ResizeConfig

BUDGET = ResizeConfig(policy=Policy.PATCH_BUDGET, patch=16, max_patches=64, plain_share=0.5)
FLAT = np.full((320, 320, 3), 200, dtype=np.uint8)
NOISE = np.random.default_rng(3).integers(0, 256, (320, 320, 3), dtype=np.uint8)


def _shard(images: list[Image | None]) -> pa.Table:
    views = [None if image is None else resize.view(image, (320, 320), BUDGET) for image in images]
    sides = pa.array([None if image is None else 320 for image in images], pa.int32())
    return pa.table({"height": sides, "width": sides, view_column("v"): pack_views(views)})


def test_count_patches_of_plain_and_busy_pictures_shows_what_detail_saved() -> None:
    made = CountPatches("v", BUDGET)(_shard([FLAT, None, NOISE]))
    plain, missing, busy = made["patches"].to_pylist()
    assert made["patches_undetailed"].to_pylist() == [64, 0, 64]
    assert busy == 64
    assert missing == 0
    assert plain == 25  # 5 x 5, the largest square within half of 64


def test_count_patches_of_another_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="patch_budget"):
        CountPatches("v", ResizeConfig())
