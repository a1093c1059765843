"""Pictures encoded once, for however many prompts: their features and their tokens in a prompt."""

import hashlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from stages.base import Image
from stages.generators.prompts import Prompt

if TYPE_CHECKING:
    import torch

Key: TypeAlias = bytes

# The only inputs of a picture that may be left out once its features are known. Models that derive more
# from it, such as the positions of Qwen-VL from `image_grid_thw`, take the plain way.
_PIXEL_INPUTS = {"pixel_values", "pixel_attention_mask", "high_res_pixel_values", "image_sizes"}
_TEXT_INPUTS = {"input_ids", "attention_mask"}


def picture_key(image: Image) -> Key:
    """A digest of size and pixels: equal pictures are encoded once, wherever they lie in memory."""
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    digest.update(image.data)
    return digest.digest()


def to_pil(image: Image) -> Any:
    """Not the array itself: where height or width is 1 or 3, processors take that for the channels."""
    from PIL import Image as PIL

    return PIL.fromarray(image)


@dataclass(frozen=True, eq=False)
class Encoded:
    tokens: tuple[int, ...]  # that stand for the picture in a prompt
    features: "torch.Tensor"  # [tokens of the language model, its width]

    @property
    def nbytes(self) -> int:
        return int(self.features.nbytes)


class PictureEncoder:
    """Encodes pictures apart from prompts, and keeps those of the last call, up to `max_kept` bytes."""

    def __init__(self, model: Any, processor: Any, max_kept: int) -> None:
        self._model, self._processor, self._max_kept = model, processor, max_kept
        self._kept: dict[Key, Encoded] = {}
        self._listed = False  # whether the model wants the features of a batch as a list

    def keep_only(self, keys: Iterable[Key]) -> None:
        self._kept = {key: self._kept[key] for key in keys if key in self._kept}

    def encode(self, images: Mapping[Key, Image], prompt: Prompt) -> dict[Key, Encoded]:
        """Those of the pictures that can be encoded apart. `prompt` is any prompt of theirs."""
        known = {key: self._kept[key] for key in images if key in self._kept}
        missing = [key for key in images if key not in known]
        if missing:
            fresh = self._encode([images[key] for key in missing], prompt)
            known |= {key: one for key, one in zip(missing, fresh, strict=True) if one is not None}
            self._keep({key: known[key] for key in missing if key in known})
        return known

    def outputs(self, pictures: Sequence[Encoded]) -> dict[str, Any]:
        """What the model takes instead of pixels: the features of the pictures, in this order."""
        import torch
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        features: Any = [picture.features for picture in pictures]
        pooled = features if self._listed else torch.stack(features)
        return {"image": BaseModelOutputWithPooling(pooler_output=pooled)}

    def _keep(self, fresh: Mapping[Key, Encoded]) -> None:
        size = sum(one.nbytes for one in self._kept.values())
        for key, one in fresh.items():
            size += one.nbytes
            if size > self._max_kept:
                return
            # A row of a batch would keep the whole batch in memory.
            self._kept[key] = Encoded(one.tokens, one.features.clone())

    def _encode(self, images: Sequence[Image], prompt: Prompt) -> list[Encoded | None]:
        inputs = self._inputs(images, prompt)
        rows = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True)
        tokens = [prompt.inside([token for token, real in zip(*row, strict=True) if real]) for row in rows]
        pooled = self._features(inputs)
        self._listed = not hasattr(pooled, "shape")
        return [
            None if inner is None else Encoded(inner, features)
            for inner, features in zip(tokens, pooled, strict=True)
        ]

    def _inputs(self, images: Sequence[Image], prompt: Prompt) -> Any:
        return self._processor(
            images=[to_pil(image) for image in images],
            text=[prompt.text] * len(images),
            padding=True,
            add_special_tokens=prompt.special_tokens,
            return_tensors="pt",
        ).to(self._model.device, self._model.dtype)

    def _features(self, inputs: Mapping[str, Any]) -> Any:
        pixels = {name: value for name, value in inputs.items() if name not in _TEXT_INPUTS}
        return self._model.base_model.get_image_features(**pixels, return_dict=True).pooler_output

    def can_encode(self, prompts: Sequence[Prompt]) -> bool:
        """Whether this model's features and tokens can be had apart: tried on two pictures of noise."""
        model, base = self._model, self._model.base_model
        takes = "mm_encoder_outputs" in inspect.signature(model.forward).parameters
        own = "pixel_values" in inspect.signature(model.generate).parameters  # BLIP: a method of its own
        if own or not takes or not hasattr(base, "get_image_features"):
            return False
        return all(self._splices(prompts[0], prompt) for prompt in prompts)

    def _splices(self, first: Prompt, other: Prompt) -> bool:
        images = _noise()
        inputs, expected = self._inputs(images, first), self._inputs(images, other)
        allowed = _PIXEL_INPUTS & set(inspect.signature(self._model.base_model.get_image_features).parameters)
        if not set(inputs) <= _TEXT_INPUTS | allowed:
            return False
        output = self._model.base_model.get_image_features(
            **{name: value for name, value in inputs.items() if name not in _TEXT_INPUTS}, return_dict=True
        )
        if getattr(output, "deepstack_features", None) is not None or len(output.pooler_output) != len(
            images
        ):
            return False
        encoded = self._encode(images, first)
        spliced = [other.around(one.tokens) if one else [] for one in encoded]
        masks = expected["attention_mask"].bool()
        return spliced == [row[mask].tolist() for row, mask in zip(expected["input_ids"], masks, strict=True)]


def _noise() -> list[Image]:
    import numpy as np

    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((48, 64), (64, 40))]
