"""SHA-256 of source files, for telling whether their bytes are known."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pyarrow import fs

from stages.sources.folder import FolderConfig, FolderRun, open_folder

_BLOCK = 1 << 20


def digest_files(config: FolderConfig, run: FolderRun, uris: Sequence[str]) -> list[str | None]:
    """Hex digests in the order of the URIs, which `list_folder` gave; None for a file that went away since.

    Reads `run.threads` files at a time, in blocks. Raises OSError where the storage itself fails.
    """
    filesystem, root = open_folder(config.path)
    with ThreadPoolExecutor(run.threads) as pool:
        return list(pool.map(lambda uri: _digest(filesystem, f"{root}/{uri}"), uris))


def _digest(filesystem: fs.FileSystem, path: str) -> str | None:
    digest = hashlib.sha256()
    try:
        with filesystem.open_input_stream(path, compression=None) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    return digest.hexdigest()
