"""Low-rank updates of a text model (arXiv:2106.09685), by peft, which is an optional extra."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.checkpoints import ModelLoadError, loading
from stages.generators.fusion.config import LoraPlan
from stages.generators.local.loading import LoadedModel

_WEIGHTS = "adapter_model.safetensors"


def tunable(model: Any, plan: LoraPlan) -> Any:
    """Puts updates that change nothing yet beside every linear layer but the last, in place.

    Raises: ModelLoadError without peft.
    """
    with _peft() as peft:
        config = peft.LoraConfig(
            r=plan.rank, lora_alpha=plan.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        return peft.get_peft_model(model, config)


def save(model: Any, folder: Path) -> None:
    """`model` is what `tunable` returned."""
    with _peft():
        model.save_pretrained(folder, safe_serialization=True)


def tuned(loaded: LoadedModel, folder: Path) -> LoadedModel:
    """The model with the updates of the folder added into its weights; as it is if there is no folder.

    Raises: ModelLoadError.
    """
    if not folder.is_dir():
        return loaded
    if not (folder / _WEIGHTS).is_file():
        raise ModelLoadError(f"{folder} has no {_WEIGHTS}, and nothing else is loaded")
    with _peft() as peft, loading(folder):
        model = peft.PeftModel.from_pretrained(loaded.model, folder, local_files_only=True)
        return replace(loaded, model=model.merge_and_unload().eval())


@contextmanager
def _peft() -> Iterator[Any]:
    try:
        import peft
    except ImportError as error:
        raise ModelLoadError("low-rank updates need peft: pip install 'darkroom[lora]'") from error
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 whether it checkpoints gradients by the name that it had before.
        warnings.simplefilter("ignore", FutureWarning)
        yield peft
