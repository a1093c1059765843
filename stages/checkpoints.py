"""Checkpoints: where they are, how they are loaded safely, and a digest of what they hold."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

POCKET = Path(__file__).parent / "pocket"
POCKET_PREFIX = "pocket:"

# What a checkpoint's values depend on: weights, configs, tokenizer, chat template. No pickles, no code.
CONTENTS = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.txt")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelLoadError(RuntimeError):
    """A checkpoint that cannot be found, is incomplete, or is not safe to load. The message is one line."""


class Dtype(StrEnum):
    """What a model computes in; `auto` is float32 on the CPU and bfloat16 on a GPU."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Device(StrEnum):
    """Where a model runs; `auto` is the GPU if there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def resolve(model: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint.

    `pocket:NAME` is a model that ships with Darkroom; an existing folder is taken as it is; anything else is
    a Hugging Face hub id at `revision`, downloaded unless cached. Raises: ModelLoadError.
    """
    if model.startswith(POCKET_PREFIX):
        return _pocket(model)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(model):
        raise ModelLoadError(f"model {model!r} does not exist: {_allowed()}")
    return _snapshot(model, revision)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One JSON object of a checkpoint, e.g. `config.json`. Raises: ModelLoadError."""
    try:
        content = json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{folder / name} cannot be read: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{folder / name} must be a JSON object, got {type(content).__name__}")
    return content


def weights_digest(folder: Path) -> str:
    """sha256 (hex) over the names and contents of a checkpoint's files. Raises: ModelLoadError."""
    files = sorted(file for pattern in CONTENTS for file in folder.glob(pattern))
    if not files:
        raise ModelLoadError(f"{folder} holds no checkpoint: no {', '.join(CONTENTS)}")
    lines = (f"{file.name} {_content_sha256(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def load(
    model_class: Any, folder: Path, dtype: Dtype = Dtype.AUTO, device: Device = Device.AUTO, **options: Any
) -> Any:
    """`model_class.from_pretrained(folder, **options)`, complete and in eval mode on the device.

    Reads safetensors only, runs no code of the checkpoint, and uses no network. With a `device_map` among the
    options the model stays where that puts it: quantized ones cannot be moved.
    Raises: ModelLoadError, also when a tensor is missing or has another shape.
    """
    place = torch_device(device)
    _require_safetensors(folder)
    with loading(folder):
        model, info = model_class.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported by name below
            dtype=torch_dtype(dtype, place),
            **options,
        )
    _require_complete(folder, info)
    return (model if "device_map" in options else model.to(place)).eval()


def torch_device(device: Device) -> "torch.device":
    """Raises: ModelLoadError if `cuda` is asked for and there is none."""
    import torch

    available = torch.cuda.is_available()
    if device is Device.CUDA and not available:
        raise ModelLoadError("device cuda is not available: torch sees no GPU; allowed here: auto, cpu")
    return torch.device("cuda" if available and device is not Device.CPU else "cpu")


def torch_dtype(dtype: Dtype, device: "torch.device") -> "torch.dtype":
    import torch

    match dtype:
        case Dtype.AUTO:
            return torch.bfloat16 if device.type == "cuda" else torch.float32
        case Dtype.FLOAT32:
            return torch.float32
        case Dtype.BFLOAT16:
            return torch.bfloat16
        case Dtype.FLOAT16:
            return torch.float16


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Around any `from_pretrained`: quiet, and whatever fails in it is raised as ModelLoadError."""
    try:
        with quiet():
            yield
    except Exception as error:  # a broken file fails as one of a dozen types, down to StrictDataclassError
        raise ModelLoadError(f"{folder} cannot be loaded: {_one_line(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers without progress bars and load reports: what matters in them is raised by `load`."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _pocket(model: str) -> Path:
    folder = POCKET / model.removeprefix(POCKET_PREFIX)
    if folder not in _shipped():
        raise ModelLoadError(f"model {model!r} does not ship with Darkroom: {_allowed()}")
    return folder


def _shipped() -> list[Path]:
    """Checkpoints, and projectors that fuse two of them."""
    return sorted({file.parent for name in ("config", "fusion") for file in POCKET.glob(f"*/{name}.json")})


def _allowed() -> str:
    shipped = [POCKET_PREFIX + folder.name for folder in _shipped()]
    return f"allowed are {', '.join([*shipped, 'a checkpoint folder', 'a Hugging Face hub id'])}"


def _snapshot(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(CONTENTS)))
    except Exception as error:  # the HTTP library below, and so its errors, differs between hub versions
        at = f" at revision {revision}" if revision else ""
        raise ModelLoadError(
            f"model {model!r}{at} is neither in the Hugging Face cache nor reachable on the hub "
            f"({_one_line(error)}): {_allowed()}"
        ) from error


def _require_safetensors(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    found = f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights"
    raise ModelLoadError(f"{folder} has {found}; only *.safetensors are loaded, as a pickle can run code")


def _require_complete(folder: Path, info: Any) -> None:
    holes = {
        "misses": sorted(info["missing_keys"]),
        "has other shapes of": sorted(str(key[0]) for key in info["mismatched_keys"]),
    }
    found = [f"{what} {_enumerate(keys)}" for what, keys in holes.items() if keys]
    if found:
        raise ModelLoadError(f"{folder} is not a complete checkpoint: it {' and '.join(found)}")


def _enumerate(names: Iterable[str], limit: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def _content_sha256(file: Path) -> str:
    # The hub cache links large files to blobs named by their sha256: gigabytes need no second hashing.
    blob = file.resolve()
    if file.is_symlink() and blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
        return blob.name
    stat = blob.stat()
    return _hash_file(blob, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash_file(file: Path, size: int, mtime_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
