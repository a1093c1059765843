"""What a checkpoint's own image processor does to a picture, read from its config without loading it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from stages.checkpoints import ModelLoadError, read_json
from stages.resize import Filter, Policy, ResizeConfig

RGB = tuple[float, float, float]

_CLIP_MEAN: RGB = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD: RGB = (0.26862954, 0.26130258, 0.27577711)
_HALF: RGB = (0.5, 0.5, 0.5)

_FILTERS = {2: Filter.BILINEAR, 3: Filter.BICUBIC}  # the codes of PIL.Image.Resampling


class Processor(StrEnum):
    """The image processors of transformers that are read, without their suffixes Fast and Pil."""

    CLIP = "CLIPImageProcessor"
    BIT = "BitImageProcessor"  # DINOv2
    SIGLIP = "SiglipImageProcessor"
    SIGLIP2 = "Siglip2ImageProcessor"  # NaFlex
    VIT = "ViTImageProcessor"


# For the files of the hub that name no processor: what transformers takes for the model type.
_BY_MODEL_TYPE = {
    "clip": Processor.CLIP,
    "siglip": Processor.SIGLIP,
    "siglip2": Processor.SIGLIP2,
    "vit": Processor.VIT,
    "dinov2": Processor.BIT,
}

# What transformers fills in for keys that the file leaves out.
_DEFAULTS: dict[Processor, dict[str, Any]] = {
    Processor.CLIP: {
        "size": {"shortest_edge": 224},
        "crop_size": 224,
        "resample": 3,
        "do_center_crop": True,
        "image_mean": _CLIP_MEAN,
        "image_std": _CLIP_STD,
    },
    Processor.SIGLIP: {"size": 224, "resample": 3},
    Processor.SIGLIP2: {"patch_size": 16, "max_num_patches": 256, "resample": 2},
    Processor.VIT: {"size": 224, "resample": 2},
}
_DEFAULTS[Processor.BIT] = _DEFAULTS[Processor.CLIP]
_COMMON = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": _HALF,
    "image_std": _HALF,
}


@dataclass(frozen=True)
class Preprocessing:
    """A picture's way into a model: resized to uint8 RGB, then `(pixel * rescale - mean) / std`."""

    resize: ResizeConfig
    mean: RGB
    std: RGB
    rescale: float


def preprocessing(folder: Path, resize: ResizeConfig | None = None) -> Preprocessing:
    """What the image processor of a checkpoint does, with `resize` in place of its own if given.

    Raises: ModelLoadError.
    """
    written = _processor_config(folder)
    processor = _processor(folder, written)
    config = {**_COMMON, **_DEFAULTS[processor], **{k: v for k, v in written.items() if v is not None}}
    try:
        resize = resize or _resize(processor, config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(
            f"{folder}: its {processor} is not one that Darkroom can follow: {error}"
        ) from error
    normalize = bool(config["do_normalize"])
    return Preprocessing(
        resize,
        mean=_rgb(config["image_mean"]) if normalize else (0.0, 0.0, 0.0),
        std=_rgb(config["image_std"]) if normalize else (1.0, 1.0, 1.0),
        rescale=float(config["rescale_factor"]) if config["do_rescale"] else 1.0,
    )


def _processor_config(folder: Path) -> dict[str, Any]:
    """The image processor's part; a processor_config.json may hold it, and then comes first."""
    if (folder / "processor_config.json").is_file():
        nested = read_json(folder, "processor_config.json").get("image_processor")
        if isinstance(nested, dict):
            return nested
    return read_json(folder, "preprocessor_config.json")


def _processor(folder: Path, config: Mapping[str, Any]) -> Processor:
    # Before transformers 4.26 image processors were called feature extractors.
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    if name is None:
        name = _BY_MODEL_TYPE.get(read_json(folder, "config.json").get("model_type", ""))
    plain = re.sub("FeatureExtractor$", "ImageProcessor", re.sub("(Fast|Pil)$", "", str(name)))
    try:
        return Processor(plain)
    except ValueError:
        raise ModelLoadError(
            f"{folder} has the image processor {name}; supported are: {', '.join(Processor)}"
        ) from None


def _resize(processor: Processor, config: Mapping[str, Any]) -> ResizeConfig:
    if not config["do_resize"]:
        raise ValueError("do_resize is false")
    resample = _FILTERS.get(config["resample"])
    if resample is None:
        raise ValueError(f"resample must be 2 (bilinear) or 3 (bicubic), got {config['resample']}")
    if processor is Processor.SIGLIP2:
        return ResizeConfig(
            Policy.PATCH_BUDGET,
            patch=int(config["patch_size"]),
            max_patches=int(config["max_num_patches"]),
            upscale=True,
            filter=resample,
        )
    shortest = _shortest_edge(processor, config["size"])
    if shortest is not None:
        return ResizeConfig(Policy.SQUARE, size=shortest, crop=_crop(config), filter=resample)
    if config["do_center_crop"]:
        raise ValueError("do_center_crop needs size.shortest_edge")
    height, width = _sides(config["size"])
    return ResizeConfig(Policy.SQUASH, height=height, width=width, filter=resample)


def _shortest_edge(processor: Processor, size: Any) -> int | None:
    """A bare number means the shortest edge where a crop follows, and both sides elsewhere."""
    if isinstance(size, int):
        return size if processor in (Processor.CLIP, Processor.BIT) else None
    if "shortest_edge" in size:
        if size.get("longest_edge"):
            raise ValueError(f"size must have only shortest_edge, or height and width, got {size}")
        return int(size["shortest_edge"])
    return None


def _crop(config: Mapping[str, Any]) -> int:
    if not config["do_center_crop"]:
        raise ValueError("size.shortest_edge without do_center_crop gives pictures of many sizes")
    height, width = _sides(config["crop_size"])
    if height != width:
        raise ValueError(f"crop_size must be a square, got {height} x {width}")
    return height


def _sides(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size["height"]), int(size["width"]))


def _rgb(levels: Any) -> RGB:
    if isinstance(levels, int | float):
        return (float(levels),) * 3
    red, green, blue = levels
    return (float(red), float(green), float(blue))
