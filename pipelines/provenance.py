"""What code a run was made with: Darkroom's own commit and the versions of its libraries."""

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = (
    "darkroom",
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pyarrow",
    "ray",
    "torch",
    "transformers",
    "faiss-cpu",
    "faiss-gpu",
)


def source_commit() -> str | None:
    """The git commit of Darkroom's own source, `-dirty` if files differ; None outside a checkout."""
    # `ls-files` because an installed copy may lie inside somebody else's repository.
    own = _git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))
    return _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty") if own else None


def versions() -> dict[str, str]:
    """The packages that a run's values may depend on, as far as they are installed, and Python."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(_ROOT), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
