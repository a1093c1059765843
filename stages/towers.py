"""The image and text towers of the encoder families: their sizes, how they load, what they answer."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.checkpoints import Device, Dtype, ModelLoadError, load, loading, read_json

if TYPE_CHECKING:
    import torch


class Family(StrEnum):
    """The encoders that Darkroom knows, named by the `model_type` of config.json."""

    CLIP = "clip"
    SIGLIP = "siglip"
    SIGLIP2 = "siglip2"  # NaFlex: any aspect ratio, as a sequence of patches
    VIT = "vit"
    DINOV2 = "dinov2"


@dataclass(frozen=True)
class Geometry:
    """What an image tower takes and gives: its pictures' side and patch in pixels, its vectors' length."""

    dim: int
    image_size: int
    patch_size: int


# The defaults of transformers' configs, for the keys that a config.json leaves out.
_DEFAULTS = {
    Family.CLIP: Geometry(dim=512, image_size=224, patch_size=32),
    Family.SIGLIP: Geometry(dim=768, image_size=224, patch_size=16),
    Family.SIGLIP2: Geometry(dim=768, image_size=0, patch_size=16),
    Family.VIT: Geometry(dim=768, image_size=224, patch_size=16),
    Family.DINOV2: Geometry(dim=768, image_size=224, patch_size=14),
}


def family(folder: Path) -> Family:
    """Raises: ModelLoadError if the checkpoint is none of the encoders above."""
    model_type = read_json(folder, "config.json").get("model_type")
    try:
        return Family(str(model_type))
    except ValueError:
        raise ModelLoadError(
            f"{folder} is a {model_type!r} model; encoders must be one of: {', '.join(Family)}"
        ) from None


def reads_text(folder: Path) -> bool:
    """Whether it has a text tower. Raises: ModelLoadError."""
    return family(folder) not in (Family.VIT, Family.DINOV2)


def geometry(folder: Path) -> Geometry:
    """Sizes as config.json has them, without loading the model."""
    kind = family(folder)
    config = read_json(folder, "config.json")
    vision = config if kind in (Family.VIT, Family.DINOV2) else config.get("vision_config") or {}
    default = _DEFAULTS[kind]
    dim = config.get("projection_dim") if kind is Family.CLIP else vision.get("hidden_size")
    return Geometry(
        dim=int(dim or default.dim),
        image_size=int(vision.get("image_size") or default.image_size),
        patch_size=int(vision.get("patch_size") or default.patch_size),
    )


def load_image_tower(folder: Path, dtype: Dtype, device: Device) -> Any:
    """The half of the checkpoint that reads pictures, in eval mode. Raises: ModelLoadError."""
    import transformers

    match family(folder):
        case Family.CLIP:
            config = _clip_config(folder, "vision_config")
            return load(transformers.CLIPVisionModelWithProjection, folder, dtype, device, config=config)
        case Family.SIGLIP:
            return load(transformers.SiglipVisionModel, folder, dtype, device)
        case Family.SIGLIP2:
            return load(transformers.Siglip2VisionModel, folder, dtype, device)
        case Family.VIT:
            # Classifiers have no pooling layer, and where there is one it is rarely trained: use CLS.
            return load(transformers.ViTModel, folder, dtype, device, add_pooling_layer=False)
        case Family.DINOV2:
            return load(transformers.Dinov2Model, folder, dtype, device)


def load_text_tower(folder: Path, dtype: Dtype, device: Device) -> Any:
    """The half of the checkpoint that reads text, in eval mode. Raises: ModelLoadError."""
    import transformers

    match family(folder):
        case Family.CLIP:
            config = _clip_config(folder, "text_config")
            return load(transformers.CLIPTextModelWithProjection, folder, dtype, device, config=config)
        case Family.SIGLIP:
            return load(transformers.SiglipTextModel, folder, dtype, device)
        case Family.SIGLIP2:
            return load(transformers.Siglip2TextModel, folder, dtype, device)
        case Family.VIT | Family.DINOV2 as kind:
            raise ModelLoadError(f"{folder} is a {kind} model without a text tower: it cannot search by text")


def load_tokenizer(folder: Path) -> Any:
    """Raises: ModelLoadError."""
    from transformers import AutoTokenizer

    with loading(folder):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def pooled(output: Any) -> "torch.Tensor":
    """The one vector per row [rows, dim] in a tower's output, not yet of unit length."""
    for name in ("image_embeds", "text_embeds", "pooler_output"):
        vectors: torch.Tensor | None = getattr(output, name, None)
        if vectors is not None:
            return vectors
    cls: torch.Tensor = output.last_hidden_state[:, 0]
    return cls


def _clip_config(folder: Path, tower: str) -> Any:
    """The config of one CLIP tower, with the projection's size, which only the whole's config states."""
    from transformers import CLIPConfig

    with loading(folder):
        whole = CLIPConfig.from_pretrained(folder, local_files_only=True)
    config = getattr(whole, tower)
    config.projection_dim = whole.projection_dim
    return config
