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
_MORE_FEATURES = {"deepstack_features"}  # that go into deeper layers of the language model


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
        self._mark: int | None = getattr(model.config, "image_token_id", None)
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
        tokens = [prompt.inside(row) for row in _unpadded(inputs)]
        pooled = self._features(inputs).pooler_output
        self._listed = not hasattr(pooled, "shape")
        if len(pooled) != len(images):  # features of tiles, when there are several a picture
            return [None] * len(images)
        return [self._paired(*pair) for pair in zip(tokens, pooled, strict=True)]

    def _paired(self, tokens: tuple[int, ...] | None, features: "torch.Tensor") -> Encoded | None:
        """Nothing unless there is one feature for each place that the model puts one in."""
        fits = tokens is not None and tokens.count(self._mark) == len(features)
        return Encoded(tokens, features) if tokens and fits else None

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
        return self._model.base_model.get_image_features(**pixels, return_dict=True)

    def can_encode(self, one: Prompt, other: Prompt) -> bool:
        """Whether this model's features, and its tokens, can be had apart: tried on two pictures of noise.

        The tokens of the pictures in one prompt must be those in the other.
        """
        base = self._model.base_model
        takes = "mm_encoder_outputs" in inspect.signature(self._model.forward).parameters
        own = "pixel_values" in inspect.signature(self._model.generate).parameters  # BLIP: its own method
        if own or not takes or self._mark is None or not hasattr(base, "get_image_features"):
            return False
        images = _noise()
        inputs, expected = self._inputs(images, one), self._inputs(images, other)
        known = _PIXEL_INPUTS & set(inspect.signature(base.get_image_features).parameters)
        if not set(inputs) <= _TEXT_INPUTS | known:
            return False
        output = self._features(inputs)
        if set(output) & _MORE_FEATURES or len(output.pooler_output) != len(images):
            return False
        spliced = [other.around(encoded.tokens) if encoded else [] for encoded in self._encode(images, one)]
        return spliced == _unpadded(expected)


def _unpadded(inputs: Mapping[str, Any]) -> list[list[int]]:
    masks = inputs["attention_mask"].bool()
    return [row[mask].tolist() for row, mask in zip(inputs["input_ids"], masks, strict=True)]


def _noise() -> list[Image]:
    import numpy as np

    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((48, 64), (64, 40))]
