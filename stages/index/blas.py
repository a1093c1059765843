"""The one place that imports faiss, with the right OpenBLAS kernel.

The faiss wheel bundles OpenBLAS 0.3.15 of 2021, which does not know newer Intel CPUs and falls back
to SSE3 kernels (`Prescott`) there: k-means and list assignment then run 2.6 to 4 times slower. The
kernel can only be chosen by an environment variable, before the library is loaded.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any

_DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu11", "faiss-gpu-cu12")
# From this many values a block, distances by matrix product win; faiss 1.15 waits for 128,000 and
# trains codebooks of 4-dimensional parts 10 times slower.
_MATRIX_FROM = 1024


class FaissUnavailable(ImportError):
    """faiss is missing, or two packages overwrite each other's `faiss` module."""


def import_faiss() -> Any:
    """The faiss module. In a process that also uses torch, import torch first: both bring an OpenMP.

    Raises: FaissUnavailable, with what to install.
    """
    if "faiss" not in sys.modules:
        check_installed()
        choose_blas_kernel()
    try:
        import faiss
    except ImportError as error:
        raise FaissUnavailable(f"faiss cannot be imported ({error}): reinstall darkroom[cpu]") from error
    return faiss


def import_clustering() -> Any:
    """`faiss.contrib.clustering`: k-means over data that says itself how it is assigned.

    Raises: FaissUnavailable.
    """
    import_faiss()
    # It prints where scipy is missing, which only its sparse k-means needs.
    with redirect_stdout(StringIO()):
        import faiss.contrib.clustering
    return faiss.contrib.clustering


@contextmanager
def matrix_products() -> Iterator[None]:
    """Inside, faiss takes distances by matrix products for small blocks too; for the whole process."""
    faiss = import_faiss()
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = _MATRIX_FROM
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, faiss works with one thread: what several do depends on how many they are, in some places."""
    faiss = import_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def check_installed() -> None:
    """Whether there is one faiss, without importing it. Raises: FaissUnavailable."""
    installed = [name for name in _DISTRIBUTIONS if _is_installed(name)]
    if not installed:
        raise FaissUnavailable(
            "the index needs faiss: pip install 'darkroom[cpu]', or 'darkroom[gpu]' with an NVIDIA GPU"
        )
    if len(installed) > 1:
        raise FaissUnavailable(
            f"{' and '.join(installed)} overwrite each other: uninstall all of them, then install one"
        )


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def choose_blas_kernel() -> None:
    """Sets the environment that faiss's libraries read as they are loaded; what is already set stays.

    OMP_WAIT_POLICY=PASSIVE keeps idle threads from spinning, which costs 20% on a loaded machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    core = best_core(_cpu_flags())
    if core is not None:
        os.environ.setdefault("OPENBLAS_CORETYPE", core)


def best_core(flags: frozenset[str]) -> str | None:
    """The OpenBLAS core type for these CPU flags; None leaves the choice to OpenBLAS."""
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= flags:
        return "SKYLAKEX"
    if {"avx2", "fma"} <= flags:
        return "HASWELL"
    return None


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split()) for line in lines if line.startswith("flags")), frozenset())


def blas_kernel() -> str:
    """The core type that faiss's OpenBLAS runs, such as `SkylakeX`; `unknown` with another BLAS."""
    import_faiss()
    for path in _loaded_libraries():
        if "openblas" in path.name and "faiss" in str(path.parent):
            corename = ctypes.CDLL(str(path)).openblas_get_corename
            corename.restype = ctypes.c_char_p
            return str(corename().decode())
    return "unknown"


def _loaded_libraries() -> list[Path]:
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return sorted({Path(line.split(maxsplit=5)[5]) for line in lines if ".so" in line})
