"""Pictures encoded once, for however many prompts: their features and their tokens in a prompt."""

import hashlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from stages.base import Image
from stages.generators.local.loading import LoadedModel
from stages.generators.local.prompts import Prompt, PromptRenderer

if TYPE_CHECKING:
    import torch

Key: TypeAlias = bytes

# What may be left out once a picture's features are known, and what the positions of its tokens are worked
# out from, a row a picture. Models that derive more from it take the plain way.
_PIXEL_INPUTS = {
    "pixel_values",
    "pixel_attention_mask",
    "high_res_pixel_values",
    "image_sizes",
    "batch_num_images",
}
_GRID, _TYPES = "image_grid_thw", "mm_token_type_ids"
_TEXT_INPUTS = {"input_ids", "attention_mask", _TYPES}

# What the features put in place of the pixels may change of the logits, as a part of the largest: the same
# numbers go through the same layers. Features at the wrong places change all of it.
_ROUNDING = 0.02


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
    deeper: tuple["torch.Tensor", ...] = ()  # the same for deeper layers of the language model
    grid: "torch.Tensor | None" = None  # int64 [1, 3]: frames, rows and columns of patches

    @property
    def nbytes(self) -> int:
        return sum(int(part.nbytes) for part in (self.features, *self.deeper))

    def copy(self) -> "Encoded":
        """On its own: a row of a batch keeps the whole batch in memory."""
        deeper = tuple(part.clone() for part in self.deeper)
        return Encoded(self.tokens, self.features.clone(), deeper, self.grid)


class PictureEncoder:
    """Encodes pictures apart from prompts, and keeps them for later calls, up to `max_kept` bytes."""

    def __init__(self, loaded: LoadedModel, render: PromptRenderer, max_kept: int) -> None:
        self._loaded, self._max_kept = loaded, max_kept
        self._model, self._processor = loaded.model, loaded.processor
        self._prompt = render("is it red?")
        self._kept: dict[Key, Encoded] = {}
        self._wanted: frozenset[Key] = frozenset()
        self._mark: int | None = getattr(loaded.model.config, "image_token_id", None)
        self._listed = False  # whether the model wants the features of a batch as a list
        self.encodes = self._takes_features() and self._can_encode([[image] for image in _noise()], render)
        # LLaVA-OneVision cuts up only pictures that are alone in a prompt.
        self._joins = self.encodes and self._can_encode([_noise()], render)

    def takes(self, pictures: int) -> bool:
        """Whether so many pictures in one prompt are what each is alone."""
        return self.encodes and (self._joins or pictures < 2)

    def want(self, keys: Iterable[Key]) -> None:
        """Pictures that are to be kept; others make room for them, the oldest first."""
        self._wanted = frozenset(keys)
        found = [key for key in self._kept if key in self._wanted]
        for key in found:
            self._kept[key] = self._kept.pop(key)

    def forget(self) -> None:
        self._kept.clear()

    def encode(self, images: Mapping[Key, Image], limit: int) -> dict[Key, Encoded]:
        """Those of the pictures that can be encoded apart, at most `limit` of them together."""
        known = {key: self._kept[key] for key in images if key in self._kept}
        missing = iter([key for key in images if key not in known])
        while keys := list(islice(missing, limit)):
            found = self._encode([images[key] for key in keys])
            fresh = {key: one for key, one in zip(keys, found, strict=True) if one is not None}
            self._keep(fresh)
            known |= fresh
        return known

    def outputs(self, pictures: Sequence[Encoded], tokens: "torch.Tensor") -> dict[str, Any]:
        """What the model takes instead of pixels: the features of the pictures, in the order of their places
        in `tokens`, int64 [rows, length].
        """
        import torch
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        features: Any = [picture.features for picture in pictures]
        made = BaseModelOutputWithPooling(pooler_output=features if self._listed else torch.cat(features))
        if pictures[0].deeper:
            made.deepstack_features = list(zip(*(picture.deeper for picture in pictures), strict=True))
        grids = [picture.grid for picture in pictures if picture.grid is not None]
        places = {_GRID: torch.cat(grids), _TYPES: tokens.eq(self._mark or 0).long()} if grids else {}
        return {"mm_encoder_outputs": {"image": made}, **places}

    def _keep(self, fresh: Mapping[Key, Encoded]) -> None:
        size = sum(one.nbytes for one in self._kept.values())
        old = iter([key for key in self._kept if key not in self._wanted])
        for key, one in fresh.items():
            size += one.nbytes
            while size > self._max_kept:
                oldest = next(old, None)
                if oldest is None:
                    return
                size -= self._kept.pop(oldest).nbytes
            self._kept[key] = one.copy()

    def _encode(self, images: Sequence[Image]) -> list[Encoded | None]:
        inputs = self._inputs([[image] for image in images], self._prompt)
        tokens = [self._prompt.inside(row) for row in _unpadded(inputs)]
        return self._paired(tokens, self._features(inputs), inputs.get(_GRID))

    def _paired(
        self, tokens: Sequence[tuple[int, ...] | None], found: Any, grids: "torch.Tensor | None"
    ) -> list[Encoded | None]:
        """Nothing unless there is one feature for each place that the model puts one in.

        A picture may be several rows of features, one for each of its tiles.
        """
        import torch

        self._listed = not isinstance(found.pooler_output, torch.Tensor)
        flat = _flat(found.pooler_output)
        places = [0 if one is None else one.count(self._mark) for one in tokens]
        if sum(places) != len(flat) or not all(places):
            return [None] * len(tokens)
        layers = [flat, *map(_flat, getattr(found, "deepstack_features", None) or ())]
        parts = zip(*(torch.split(layer, places) for layer in layers), strict=True)
        rows = [None] * len(tokens) if grids is None else torch.split(grids, 1)
        return [
            Encoded(one, features, tuple(deeper), row)
            for one, (features, *deeper), row in zip(tokens, parts, rows, strict=True)
            if one is not None
        ]

    def _inputs(self, images: Sequence[Sequence[Image]], prompt: Prompt) -> Any:
        return self._processor(
            images=[[to_pil(image) for image in row] for row in images],
            text=[prompt.text] * len(images),
            padding=True,
            add_special_tokens=prompt.special_tokens,
            return_tensors="pt",
        ).to(self._model.device, self._model.dtype)

    def _features(self, inputs: Mapping[str, Any]) -> Any:
        pixels = {name: value for name, value in inputs.items() if name not in _TEXT_INPUTS}
        return self._model.base_model.get_image_features(**pixels, return_dict=True)

    def _can_encode(self, images: Sequence[Sequence[Image]], render: PromptRenderer) -> bool:
        """Whether this model's features and tokens can be had apart: tried on pictures of noise.

        The tokens of the pictures in one prompt must be those in another, and the logits equal. A class that
        wants its features in another form raises whatever it likes; such a one takes the plain way.
        """
        import torch

        try:
            return self._is_same(images, render("a cat?", images=len(images[0])))
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return False

    def _is_same(self, images: Sequence[Sequence[Image]], other: Prompt) -> bool:
        inputs = self._inputs(images, other)
        if not set(inputs) <= _TEXT_INPUTS | {_GRID} | self._pixel_inputs():
            return False
        pictures = [image for row in images for image in row]
        found = [one for one in self._encode(pictures) if one is not None]
        if len(found) < len(pictures) or len(other.pieces) != len(images[0]) + 1:
            return False
        left = iter(found)
        spliced = [other.around([next(left).tokens for _ in row]) for row in images]
        return spliced == _unpadded(inputs) and self._same_logits(inputs, found)

    def _takes_features(self) -> bool:
        base = self._model.base_model
        takes = "mm_encoder_outputs" in inspect.signature(self._model.forward).parameters
        own = "pixel_values" in inspect.signature(self._model.generate).parameters  # BLIP: its own method
        apart = takes and not own and not self._loaded.encoder_decoder
        return apart and self._mark is not None and hasattr(base, "get_image_features")

    def _pixel_inputs(self) -> set[str]:
        return _PIXEL_INPUTS & set(inspect.signature(self._model.base_model.get_image_features).parameters)

    def _same_logits(self, inputs: Mapping[str, Any], pictures: Sequence[Encoded]) -> bool:
        texts = {name: inputs[name] for name in _TEXT_INPUTS & set(inputs)}
        features = self.outputs(pictures, inputs["input_ids"])
        expected = self._model(**inputs, logits_to_keep=1).logits.float()
        found = self._model(**{**texts, **features}, logits_to_keep=1).logits.float()
        return bool((found - expected).abs().max() <= _ROUNDING * expected.abs().max())


def _flat(features: "torch.Tensor | Sequence[torch.Tensor]") -> "torch.Tensor":
    """[places, width] out of those of pictures, or of their tiles."""
    import torch

    return torch.cat([part.reshape(-1, part.shape[-1]) for part in features])


def _unpadded(inputs: Mapping[str, Any]) -> list[list[int]]:
    masks = inputs["attention_mask"].bool()
    return [row[mask].tolist() for row, mask in zip(inputs["input_ids"], masks, strict=True)]


def _noise() -> list[Image]:
    import numpy as np

    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((48, 64), (64, 40))]
