"""Models of `AutoModelForImageTextToText`, their processors, and how the classes differ in generating."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.checkpoints import ModelLoadError, load, quiet, resolve
from stages.generators.config import GeneratorConfig, GeneratorRun


@dataclass(frozen=True, eq=False)
class LoadedModel:
    model: Any
    processor: Any  # pads on the left
    settings: Any  # transformers' GenerationConfig
    ends: frozenset[int]  # tokens that end a text
    dropped: int  # tokens that the model's own `generate` takes off the end of a prompt
    pads: bool  # whether prompts of unlike length may be in one batch


def load_model(config: GeneratorConfig, run: GeneratorRun) -> LoadedModel:
    """Raises: ModelLoadError."""
    import transformers

    folder = resolve(config.model, config.revision)
    processor = _load_processor(folder)
    model = load(transformers.AutoModelForImageTextToText, folder, config.dtype, run.device)
    kind = str(model.config.model_type)
    if model.config.is_encoder_decoder:
        raise ModelLoadError(f"{folder} is an encoder-decoder ({kind}); only decoders generate here")
    return LoadedModel(
        model=model,
        processor=processor,
        settings=_settings(model, processor.tokenizer, config),
        ends=_end_tokens(model),
        dropped=int(kind == "blip"),
        # These two write to fixed places of a prompt, and count positions from its padding.
        pads=not kind.startswith(("blip", "instructblip")),
    )


def _load_processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    try:
        with quiet():
            processor = AutoProcessor.from_pretrained(
                folder, padding_side="left", trust_remote_code=False, local_files_only=True
            )
    except ImportError as error:
        needed = "torchvision" if "torchvision" in str(error).lower() else _one_line(error)
        raise ModelLoadError(
            f"{folder} has a processor that needs {needed}, which is not installed"
        ) from error
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise ModelLoadError(f"{folder} has no processor that loads: {_one_line(error)}") from error
    _require_left_padding(folder, getattr(processor, "tokenizer", None))
    return processor


def _require_left_padding(folder: Path, tokenizer: Any) -> None:
    """With padding on the right some answers of a batch are silently wrong."""
    if tokenizer is None:
        raise ModelLoadError(f"{folder} has a processor of images or of text, but none of both")
    if tokenizer.padding_side != "left" or tokenizer.pad_token_id is None:
        raise ModelLoadError(f"{folder} has a tokenizer that cannot pad on the left")


def _settings(model: Any, tokenizer: Any, config: GeneratorConfig) -> Any:
    """The checkpoint's own settings, but one beam, and no sampling other than Darkroom's."""
    settings = copy.deepcopy(model.generation_config)
    settings.update(
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        max_length=None,
        max_new_tokens=config.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
    )
    return settings


def _end_tokens(model: Any) -> frozenset[int]:
    if model.config.model_type == "blip":
        return frozenset([model.config.text_config.sep_token_id])
    ends = model.generation_config.eos_token_id
    return frozenset([] if ends is None else [ends] if isinstance(ends, int) else ends)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
