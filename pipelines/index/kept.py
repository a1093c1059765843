"""What a build keeps on its way, so that one that was killed goes on: files with a checksum at their end."""

import hashlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import numpy.typing as npt

from pipelines.corpus import Corpus

_DIGEST_BYTES = 32


def kept(corpus: Corpus, path: tuple[str, ...], make: Callable[[], bytes]) -> bytes:
    """What an earlier build made, else what is made now. A torn or damaged file counts as absent."""
    found = _read(corpus, path)
    if found is not None:
        return found
    data = make()
    corpus.check_fence()
    corpus.write_bytes(data + hashlib.sha256(data).digest(), *path)
    return data


def _read(corpus: Corpus, path: tuple[str, ...]) -> bytes | None:
    try:
        stored = corpus.read_bytes(*path)
    except FileNotFoundError:
        return None
    data, digest = stored[:-_DIGEST_BYTES], stored[-_DIGEST_BYTES:]
    return data if hashlib.sha256(data).digest() == digest else None


def pack_arrays(**arrays: npt.NDArray[np.generic]) -> bytes:
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack_arrays(data: bytes) -> dict[str, npt.NDArray[np.generic]]:
    with np.load(BytesIO(data), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
