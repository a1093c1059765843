"""What a build keeps on its way, so that one that was killed goes on: files with a checksum at their end."""

import hashlib
from collections.abc import Callable

from pipelines.corpus import Corpus
from stages.index.damage import IndexDamaged

_DIGEST_BYTES = 32


def kept(corpus: Corpus, path: tuple[str, ...], make: Callable[[], bytes]) -> bytes:
    """What an earlier build made, else what is made now. A torn or damaged file counts as absent."""
    try:
        return read_kept(corpus, path)
    except (FileNotFoundError, IndexDamaged):
        data = make()
    corpus.check_fence()
    with corpus.writing(*path, size=len(data) + _DIGEST_BYTES) as stream:
        stream.write(data)
        stream.write(hashlib.sha256(data).digest())
    return data


def read_kept(corpus: Corpus, path: tuple[str, ...]) -> bytes:
    """What `kept` wrote. Raises: FileNotFoundError; IndexDamaged."""
    stored = corpus.read_bytes(*path)
    data, digest = stored[:-_DIGEST_BYTES], stored[-_DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise IndexDamaged(f"{corpus.path(*path)} is damaged: run darkroom index again")
    return data
