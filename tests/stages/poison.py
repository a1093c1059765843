"""Faults at the edge of real models: what reads the pixels raises, on white pictures or in large batches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from stages.base import Image


def white(like: Image) -> Image:
    """The picture that `poisoned` models raise on."""
    return np.full_like(like, 255)


@contextmanager
def fault(*modules: type[torch.nn.Module], raises: Callable[[torch.Tensor], None]) -> Iterator[list[int]]:
    """Shows the normalised pixels that modules of these classes are given to `raises`.

    Gives the lengths of all batches, those that raised included.
    """
    lengths: list[int] = []

    def hook(module: torch.nn.Module, args: Any) -> None:
        if isinstance(module, modules) and args:
            lengths.append(len(args[0]))
            raises(args[0])

    handle = torch.nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        yield lengths
    finally:
        handle.remove()


def is_white(pixels: torch.Tensor) -> torch.Tensor:
    """bool [rows]: normalised, white is 1 or more, the grey of a blank picture about 0, and padding -1."""
    # Some processors pad to a square. NaFlex has patches, and no padding first, instead of height and width.
    middle = tuple(slice(side // 2 - 4, side // 2 + 4) for side in pixels.shape[2:])
    some = pixels[:, :, middle[0], middle[1]] if len(middle) == 2 else pixels[:, :1]
    return some.flatten(1).amin(dim=1) > 0.9


def on_white(pixels: torch.Tensor) -> None:
    if is_white(pixels).any():
        raise RuntimeError(f"a white picture in a tensor at {id(pixels):#x}")
