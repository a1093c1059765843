import os
import subprocess
import sys

import pytest

from stages.index import blas
from stages.index.blas import FaissUnavailable, best_core, blas_kernel

AVX512 = {"avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl"}


def _in_new_process(code: str, **environment: str) -> str:
    chosen = {"OPENBLAS_CORETYPE", "OMP_WAIT_POLICY"}
    inherited = {key: value for key, value in os.environ.items() if key not in chosen}
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=True, timeout=60
    )
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("flags", "core"),
    [
        (AVX512, "SKYLAKEX"),
        (AVX512 - {"avx512vl"}, "HASWELL"),
        ({"avx2", "fma"}, "HASWELL"),
        ({"sse4_2"}, None),
        (set(), None),
    ],
)
def test_best_core_follows_the_flags(flags: set[str], core: str | None) -> None:
    assert best_core(frozenset(flags)) == core


def test_blas_kernel_in_a_new_process_is_the_best_core() -> None:
    core = best_core(blas._cpu_flags())
    if core is None or blas_kernel() == "unknown":
        pytest.skip("no OpenBLAS kernel to choose on this machine")

    kernel = _in_new_process("from stages.index.blas import blas_kernel; print(blas_kernel())")

    assert kernel.upper() == core


def test_blas_kernel_set_by_the_user_stays() -> None:
    if blas_kernel() == "unknown":
        pytest.skip("faiss uses another BLAS")

    kernel = _in_new_process(
        "from stages.index.blas import blas_kernel; print(blas_kernel())", OPENBLAS_CORETYPE="NEHALEM"
    )

    assert kernel == "Nehalem"


def test_import_faiss_sets_waiting_threads_to_sleep() -> None:
    code = "import os; from stages.index.blas import import_faiss; import_faiss(); {}"

    assert _in_new_process(code.format("print(os.environ['OMP_WAIT_POLICY'])")) == "PASSIVE"


def test_import_of_the_index_modules_does_not_load_faiss() -> None:
    code = "import sys, stages.index.train, stages.index.searchable; print('faiss' in sys.modules)"

    assert _in_new_process(code) == "False"


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ([], r"pip install 'darkroom\[cpu\]', or 'darkroom\[gpu\]'"),
        (["faiss-cpu", "faiss-gpu"], "faiss-cpu and faiss-gpu overwrite each other"),
    ],
)
def test_import_faiss_without_exactly_one_package_says_what_to_do(
    installed: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blas, "_is_installed", installed.__contains__)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)

    with pytest.raises(FaissUnavailable, match=message):
        blas.import_faiss()
