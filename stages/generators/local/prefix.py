"""What a language model has read once, for all prompts that begin with it."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Prefix:
    """The cache after the starts of some prompts, one a row, padded on the left to one length.

    On the pocket model two questions a picture take 0.73 of the time that they take without, five 0.53.
    """

    tokens: "torch.Tensor"  # int64 [starts, length]
    mask: "torch.Tensor"  # int64, likewise; 0 at the padding
    cache: Any

    def continued(self, rows: Sequence[int], rests: Mapping[str, "torch.Tensor"]) -> dict[str, Any]:
        """Inputs for `generate`: the rests of prompts, padded on the left, each after the start in its row
        of `rows`. The cache is a copy, as generation appends to it.
        """
        import torch

        index = torch.tensor(rows, device=self.tokens.device)
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(index)
        return {
            "input_ids": torch.cat([self.tokens[index], rests["input_ids"]], dim=1),
            "attention_mask": torch.cat([self.mask[index], rests["attention_mask"]], dim=1),
            "past_key_values": cache,
        }


def can_read(model: Any) -> bool:
    """Not where positions are more than a count of tokens, as in Qwen-VL."""
    counts = not hasattr(model.base_model, "get_rope_index")
    return counts and "position_ids" in inspect.signature(model.base_model.forward).parameters


def read(model: Any, inputs: Mapping[str, Any]) -> Prefix | None:
    """`inputs`: tokens, their mask and the features of the pictures in them. None where the model has no
    cache whose rows can be copied.
    """
    from transformers.cache_utils import DynamicLayer

    mask = inputs["attention_mask"]
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)  # as generation counts them: padding has none
    cache = model.base_model(**inputs, position_ids=places, use_cache=True).past_key_values
    layers = getattr(cache, "layers", [None])
    copied = all(type(layer) is DynamicLayer for layer in layers)
    return Prefix(inputs["input_ids"], mask, cache) if copied else None
