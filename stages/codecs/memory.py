"""A limit to the memory that decoding may take."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATM = Path("/proc/self/statm")


@contextmanager
def memory_limit(headroom_mb: int | None) -> Iterator[None]:
    """Lets the process map at most `headroom_mb` MiB more than it has now, for the length of the block.

    An allocation beyond it fails (MemoryError, std::bad_alloc) where it would otherwise bring the
    machine down. It is the whole process's limit, so all of its threads are held to it. No limit
    with None, and none on systems without /proc, which tell no address space.
    """
    if headroom_mb is None or not _STATM.exists():
        yield
        return
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(_STATM.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    ceilings = [limit for limit in (before, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([mapped + headroom_mb * 2**20, *ceilings]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
