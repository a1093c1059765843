"""Sampling that does not depend on the batch: each text draws its tokens from a generator of its own."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def row_seed(seed: int, picture: bytes, prompt: str) -> int:
    """63 bits out of the config's seed, the digest of a picture and the prompt: the same in any batch."""
    digest = hashlib.blake2b(prompt.encode(), key=picture, salt=seed.to_bytes(16, "big"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") >> 1


class GumbelNoise:
    """A logits processor: the arg max of logits plus Gumbel noise is a draw from their softmax.

    Generation then picks greedily, row by row, from noise that only the row's own seed decides. It is last:
    temperature and top-p have been applied.
    """

    def __init__(self, seeds: Sequence[int], device: "torch.device") -> None:
        import torch

        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.used = False

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """`scores` float [rows, vocabulary]."""
        import torch

        self.used = True
        noise = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() - noise.log()
