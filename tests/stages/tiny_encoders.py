"""Checkpoints of the real classes with random weights, small enough for tests, and real photographs."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from stages.base import Image

SIDE = 96
PATCH = 16
TEXT_LENGTH = 12
DIMS = {"clip": 40, "siglip": 64, "siglip2": 64, "vit": 64, "dinov2": 64}

_SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
_VISION = {**_SIZES, "image_size": SIDE, "patch_size": PATCH}
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_WORDS = (*_SPECIAL, "a", "cat", "dog", "red", "cup", "of", "coffee", "photo", "on", "the", "moon", "rocket")
_TEXT = {
    **_SIZES,
    "vocab_size": len(_WORDS),
    "max_position_embeddings": TEXT_LENGTH,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def save_encoder(folder: Path, kind: str, seed: int = 0) -> Path:
    """A whole checkpoint of the family `kind`: weights, image processor and, if it reads text, tokenizer."""
    torch.manual_seed(seed)
    model, processor = _model(kind).eval(), _processor(kind)
    _spread(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if kind in ("clip", "siglip", "siglip2"):
        _tokenizer().save_pretrained(folder)
    return folder


@lru_cache(maxsize=1)
def photographs() -> dict[str, Image]:
    """Pictures that scikit-image ships: uint8 RGB, 300 x 451 to 1411 x 1411."""
    names = (
        "astronaut",
        "chelsea",
        "coffee",
        "hubble_deep_field",
        "immunohistochemistry",
        "retina",
        "rocket",
    )
    return {name: np.ascontiguousarray(getattr(skimage.data, name)(), dtype=np.uint8) for name in names}


def reference(folder: Path, images: list[Image]) -> torch.Tensor:
    """float32 [images, dim], unit length: by transformers' own processor and whole model."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = processor(images=images, return_tensors="pt")
    with torch.inference_mode():
        if hasattr(model, "get_image_features"):
            vectors = model.get_image_features(**inputs).pooler_output
        else:
            vectors = model(**inputs).last_hidden_state[:, 0]
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def _model(kind: str) -> Any:
    match kind:
        case "clip":
            # As in many files of the hub, only the whole's config says that the vectors have 40 values.
            config = transformers.CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=40)
            return transformers.CLIPModel(config)
        case "siglip":
            return transformers.SiglipModel(
                transformers.SiglipConfig(text_config=_TEXT, vision_config=_VISION)
            )
        case "siglip2":
            vision = {**_SIZES, "num_patches": 36, "patch_size": PATCH}
            return transformers.Siglip2Model(
                transformers.Siglip2Config(text_config=_TEXT, vision_config=vision)
            )
        case "vit":
            return transformers.ViTModel(transformers.ViTConfig(**_VISION))
        case "dinov2":
            return transformers.Dinov2Model(transformers.Dinov2Config(**_VISION))
    raise ValueError(kind)


def _processor(kind: str) -> Any:
    square = {"height": SIDE, "width": SIDE}
    match kind:
        case "clip":
            return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square)
        case "dinov2":
            return BitImageProcessorPil(size={"shortest_edge": SIDE + PATCH}, crop_size=square)
        case "siglip":
            return SiglipImageProcessorPil(size=square)
        case "siglip2":
            return Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=36)
        case _:
            return ViTImageProcessorPil(size=square)


def _spread(model: torch.nn.Module) -> None:
    """Weights as large as trained ones: with tiny ones all pictures have almost the same vector."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2 and "position" not in name:
                fan_in = weight[0].numel()
                weight.normal_(std=1.5 / fan_in**0.5)


def _tokenizer() -> Any:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(_WORDS)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
