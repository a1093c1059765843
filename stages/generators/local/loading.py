"""Models of `AutoModelForImageTextToText`, their processors, and how the classes differ in generating."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.checkpoints import ModelLoadError, load, loading, quiet, read_json, resolve
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.fit import require_fit
from stages.generators.local.processors import processor_class
from stages.generators.local.quantization import quantization_options


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model, and how its class differs in generating."""

    model: Any
    processor: Any  # pads on the left; that of an encoder-decoder on the right
    settings: Any  # transformers' GenerationConfig
    ends: frozenset[int]  # tokens that end a text
    dropped: int  # tokens that the model's own `generate` takes off the end of a prompt
    pads: bool  # whether prompts of unlike length may be in one batch
    encoder_decoder: bool  # its output holds no prompt: one token that begins a text, then the text
    pictures: int | None  # how many a prompt may be about; None: any number
    chats: bool  # whether there are turns: a prompt is rendered by a chat template

    @property
    def padding_side(self) -> str:
        return "right" if self.encoder_decoder else "left"

    def text_start(self, prompt_tokens: int) -> int:
        """Where the text begins in a row of `generate`'s output; the prompt's tokens are with padding."""
        return 1 if self.encoder_decoder else prompt_tokens - self.dropped


def load_model(config: GeneratorConfig, run: GeneratorRun) -> LoadedModel:
    """Raises: ModelLoadError."""
    import transformers

    folder = resolve(config.model, config.revision)
    kind, encoder_decoder = _require_class(folder)
    processor = _load_processor(folder, kind, "right" if encoder_decoder else "left")
    fewer_bits = quantization_options(config.quantization, config.dtype, run)
    model = load(transformers.AutoModelForImageTextToText, folder, config.dtype, run.device, **fewer_bits)
    require_fit(folder, model, processor)
    # The model's own, too: `generate` takes from there what is None in the settings it is given.
    model.generation_config = settings = generation_settings(model, processor.tokenizer, config)
    chats = bool(processor.chat_template)
    return LoadedModel(
        model=model,
        processor=processor,
        settings=settings,
        ends=end_tokens(model),
        dropped=int(kind == "blip"),
        # These two write to fixed places of a prompt, and count positions from its padding.
        pads=kind != "blip" and not kind.startswith("instructblip"),
        encoder_decoder=encoder_decoder,
        pictures=None if chats else 1,
        chats=chats,
    )


def _require_class(folder: Path) -> tuple[str, bool]:
    """The model type, and whether it is an encoder-decoder, before any weights are read: those of another
    class would all be missing, and gigabytes of random ones made in their place.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as CLASSES

    stored = read_json(folder, "config.json")
    kind = str(stored.get("model_type"))
    with loading(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if type(config) not in CLASSES:
        raise ModelLoadError(f"{folder} holds a {kind}, which is no model that writes text about pictures")
    written, expected = stored.get("architectures") or [], CLASSES[type(config)].__name__
    if written and expected not in written:
        raise ModelLoadError(f"{folder} holds the weights of {', '.join(written)}; {expected} is wanted")
    return kind, bool(config.is_encoder_decoder)


def _load_processor(folder: Path, kind: str, padding_side: str) -> Any:
    try:
        with quiet():
            processor = processor_class(kind).from_pretrained(
                folder, padding_side=padding_side, trust_remote_code=False, local_files_only=True
            )
    except ImportError as error:
        needed = "torchvision" if "torchvision" in str(error).lower() else _one_line(error)
        raise ModelLoadError(
            f"{folder} has a processor that needs {needed}, which is not installed"
        ) from error
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ModelLoadError(f"{folder} has no processor that loads: {_one_line(error)}") from error
    _require_padding(folder, getattr(processor, "tokenizer", None), padding_side)
    return processor


def _require_padding(folder: Path, tokenizer: Any, side: str) -> None:
    """With padding on the right some answers of a batch are silently wrong; on the left, those of encoders,
    which count positions from the padding.
    """
    if tokenizer is None:
        raise ModelLoadError(f"{folder} has a processor of images or of text, but none of both")
    if tokenizer.padding_side != side or tokenizer.pad_token_id is None:
        raise ModelLoadError(f"{folder} has a tokenizer that cannot pad on the {side}")


def generation_settings(model: Any, tokenizer: Any, config: GeneratorConfig) -> Any:
    """The checkpoint's own settings, but one beam, and no sampling other than Darkroom's."""
    settings = copy.deepcopy(model.generation_config)
    settings.update(
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        max_length=None,
        forced_eos_token_id=None,  # it would end a text that is cut, as BART's checkpoints want it
        max_new_tokens=config.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
    )
    return settings


def end_tokens(model: Any) -> frozenset[int]:
    if model.config.model_type == "blip":
        return frozenset([model.config.text_config.sep_token_id])
    ends = model.generation_config.eos_token_id
    return frozenset([] if ends is None else [ends] if isinstance(ends, int) else ends)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
