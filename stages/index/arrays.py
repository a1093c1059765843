"""Arrays as the bytes of an .npz file, whose parts have checksums."""

import io
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.index.damage import IndexDamaged


def pack_arrays(**arrays: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack_arrays(data: bytes, path: str) -> dict[str, npt.NDArray[Any]]:
    """Raises: IndexDamaged, naming `path`."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, NotImplementedError) as error:
        raise IndexDamaged(f"{path} is damaged: {str(error).splitlines()[0]}") from error
