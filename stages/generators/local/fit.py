"""Whether a processor and a model of one checkpoint belong together: tried on one picture."""

import inspect
from pathlib import Path
from typing import Any

from stages.checkpoints import ModelLoadError, quiet

_SIZE = (64, 48)  # width and height: what cuts pictures into tiles makes several of it


def require_fit(folder: Path, model: Any, processor: Any) -> None:
    """One token for each feature of a picture. With other numbers most models raise at the first picture,
    Idefics3 and SmolVLM may write garbage: they only want whole tiles of tokens.

    Raises: ModelLoadError, also where the pictures are not of the size that the vision tower takes.
    """
    import torch

    mark = getattr(model.config, "image_token_id", None)
    base = model.base_model
    encode = getattr(base if hasattr(base, "get_image_features") else model, "get_image_features", None)
    if not isinstance(mark, int) or isinstance(mark, bool) or encode is None:  # BLIP has no marks in its text
        return
    try:
        with torch.inference_mode(), quiet():
            inputs = _inputs(processor).to(model.device, model.dtype)
            names = set(inspect.signature(encode).parameters) & set(inputs)
            features = encode(**{name: inputs[name] for name in names}, return_dict=True).pooler_output
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())[:200] + ("" if processor.chat_template else "; no chat template")
        raise ModelLoadError(f"{folder} has a processor that does not fit its model: {text}") from error
    marks = int((inputs["input_ids"] == mark).sum())
    count = sum(one.numel() // one.shape[-1] for one in features)
    if marks != count:
        raise ModelLoadError(
            f"{folder} has a processor that does not fit its model: it writes {marks} image tokens for "
            f"{count} features (see its num_image_tokens, image_seq_len, patch_size and size)"
        )


def _inputs(processor: Any) -> Any:
    from PIL import Image

    text = ""
    if processor.chat_template:
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}
        text = processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    picture = Image.effect_noise(_SIZE, 64).convert("RGB")
    return processor(images=[[picture]], text=[text], padding=True, return_tensors="pt")
