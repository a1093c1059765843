"""How many patches a view has, and how many it would have had without regard to its detail."""

from dataclasses import replace

import pyarrow as pa

from stages.base import unpack_views
from stages.resize import Policy, ResizeConfig, patches, plan_resize


class CountPatches:
    """(rows with the view) -> the same rows + `patches` and `patches_undetailed`, int32, 0 where not `ok`.

    For views of policy `patch_budget` only.
    """

    def __init__(self, view: str, config: ResizeConfig) -> None:
        if config.policy is not Policy.PATCH_BUDGET:
            raise ValueError(f"patches are counted in views of policy patch_budget, got {config.policy}")
        self._view = view
        self._config = config
        self._undetailed = replace(config, plain_share=1.0)

    def __call__(self, shard: pa.Table) -> pa.Table:
        images = unpack_views(shard, self._view)
        sizes = zip(shard["height"].to_pylist(), shard["width"].to_pylist(), strict=True)
        counts = [
            (0, 0) if image is None else (self._patches(image.shape), self._full(*size))
            for image, size in zip(images, sizes, strict=True)
        ]
        for index, name in enumerate(("patches", "patches_undetailed")):
            shard = shard.append_column(name, pa.array([count[index] for count in counts], pa.int32()))
        return shard

    def _full(self, height: int, width: int) -> int:
        return self._patches(plan_resize(height, width, self._undetailed).canvas)

    def _patches(self, size: tuple[int, ...]) -> int:
        return patches(size[0], size[1], self._config.patch)
