"""From vectors to the lists and codes that an index stores."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from stages.index.template import Template, block_rows
from stages.index.vectors import Codes, Vectors, check_shape, unit_float32

Encoded: TypeAlias = tuple[npt.NDArray[np.int64], Codes]
"""List numbers int64 [n] and codes uint8 [n, code_size]."""


class Encoder:
    """Checks, normalises, rotates, assigns and encodes; on CPUs by faiss, else on a device of torch."""

    def __init__(self, template: Template, device: str = "cpu") -> None:
        """device: `cpu`, or a GPU as torch names it."""
        self._template = template
        self._encode: Callable[[Vectors], Encoded] = self._with_faiss
        if device != "cpu":
            from stages.index.device import DeviceEncoder  # torch takes seconds and 300 MB

            self._encode = DeviceEncoder(template, device)

    def __call__(self, vectors: Vectors) -> Encoded:
        """vectors: [n, dim], float16 or float32, of unit length.

        Raises: VectorError; then nothing was encoded.
        """
        return self._encode(vectors)

    def _with_faiss(self, vectors: Vectors) -> Encoded:
        template = self._template
        check_shape(vectors, template.dim)
        lists = np.empty(len(vectors), np.int64)
        codes = np.empty((len(vectors), template.code_size), np.uint8)
        step = block_rows(template.dim)
        for start in range(0, len(vectors), step):
            part = slice(start, start + step)
            rotated = template.transform(unit_float32(vectors[part], template.dim, first_row=start))
            lists[part] = template.assign(rotated)[0][:, 0]
            codes[part] = template.encode(rotated, lists[part])
        return lists, codes
