"""SHA-256 of source files, for telling whether their bytes are known."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pyarrow import fs

from stages.sources.config import SourceConfig, SourceRun
from stages.sources.files import open_file
from stages.stores import open_store

_BLOCK = 1 << 20
_BATCH = 1024


def digest_files(config: SourceConfig, run: SourceRun, uris: Sequence[str]) -> list[str | None]:
    """Hex digests in the order of the URIs, which `list_folder` gave; None for a file that went away since.

    Reads `run.threads` files at a time, in blocks. Raises OSError where the storage itself fails.
    """
    store = open_store(config.path)
    with ThreadPoolExecutor(run.threads) as pool:
        # A file that waits for its turn takes 2 kB.
        batches = (uris[start : start + _BATCH] for start in range(0, len(uris), _BATCH))
        return [
            digest
            for batch in batches
            for digest in pool.map(lambda uri: _digest(store.filesystem, store.path(uri)), batch)
        ]


def _digest(filesystem: fs.FileSystem, path: str) -> str | None:
    digest = hashlib.sha256()
    try:
        with open_file(filesystem, path) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    return digest.hexdigest()
