"""Vision features as words of a text model: the file that says which models are fused, and the projector.

A folder holds `fusion.json`, `projector.safetensors`, and where the text model was tuned too, `adapter/` in
the layout of peft. Features go through two layers (as in LLaVA 1.5, arXiv:2310.03744) into the embedding
space of the text model; one pooled vector becomes several words (as in ClipCap, arXiv:2111.09734), or each
patch one.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.base import Image
from stages.checkpoints import Device, Dtype, ModelLoadError, read_json, resolve, weights_digest
from stages.image_encoder import ImageEncoder
from stages.preprocess import preprocessing
from stages.resize import ResizeConfig

if TYPE_CHECKING:
    import torch

FUSION, PROJECTOR, ADAPTER = "fusion.json", "projector.safetensors", "adapter"
VERSION = 1


class Reads(StrEnum):
    """Which features of the vision tower are projected."""

    POOLED = "pooled"  # the vector of the whole picture, of unit length: it becomes `tokens` words
    PATCHES = "patches"  # the vector of each patch: it becomes one word


@dataclass(frozen=True)
class Fusion:
    """`fusion.json`: which weights were fused, by their digest too, and the shape of the projector."""

    vision: str
    vision_revision: str | None
    vision_weights: str
    llm: str
    llm_revision: str | None
    llm_weights: str
    reads: Reads
    tokens: int  # that one vector becomes
    hidden: int
    vision_dim: int
    llm_dim: int
    version: int = VERSION

    def save(self, folder: Path) -> None:
        (folder / FUSION).write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")

    @property
    def vision_folder(self) -> Path:
        return resolve(self.vision, self.vision_revision)

    @property
    def llm_folder(self) -> Path:
        return resolve(self.llm, self.llm_revision)


def read_fusion(folder: Path) -> Fusion:
    """Raises: ModelLoadError; also if a tower or a text model is not the one the projector was trained on."""
    stored = read_json(folder, FUSION)
    if stored.get("version") != VERSION:
        raise ModelLoadError(f"{folder / FUSION} has version {stored.get('version')}; {VERSION} is read here")
    known = {field.name for field in fields(Fusion)}
    if wrong := sorted(known ^ stored.keys()):
        raise ModelLoadError(
            f"{folder / FUSION} must hold {', '.join(sorted(known))}; wrong: {', '.join(wrong)}"
        )
    try:
        fusion = Fusion(**{**stored, "reads": Reads(stored["reads"])})
    except ValueError as error:
        raise ModelLoadError(f"{folder / FUSION}: {error}") from error
    for name, model, place, weights in (
        ("vision tower", fusion.vision, fusion.vision_folder, fusion.vision_weights),
        ("text model", fusion.llm, fusion.llm_folder, fusion.llm_weights),
    ):
        if weights_digest(place) != weights:
            raise ModelLoadError(f"{folder} was trained with other weights of its {name} {model}")
    return fusion


def fusion_view(fusion: Fusion) -> ResizeConfig:
    """The view that the vision tower reads. Raises: ModelLoadError."""
    return preprocessing(fusion.vision_folder).resize


def projector(fusion: Fusion) -> Any:
    """Two layers with random weights: float [rows, vision_dim] to [rows, tokens * llm_dim]."""
    from collections import OrderedDict

    from torch import nn

    layers = {
        "norm": nn.LayerNorm(fusion.vision_dim),
        "first": nn.Linear(fusion.vision_dim, fusion.hidden),
        "bend": nn.GELU(),
        "second": nn.Linear(fusion.hidden, fusion.tokens * fusion.llm_dim),
    }
    return nn.Sequential(OrderedDict(layers))


def load_projector(fusion: Fusion, folder: Path, device: "torch.device") -> Any:
    """In float32. Raises: ModelLoadError if a tensor is missing or has another shape."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model = projector(fusion)
    try:
        model.load_state_dict(load_file(folder / PROJECTOR))
    except (OSError, RuntimeError, SafetensorError) as error:
        line = " ".join(str(error).split())
        raise ModelLoadError(f"{folder / PROJECTOR} cannot be loaded: {line[:300]}") from error
    return model.float().to(device).eval()


class VisionFeatures:
    """The frozen tower. Raises: ModelLoadError."""

    def __init__(self, fusion: Fusion, dtype: Dtype, device: Device) -> None:
        folder = fusion.vision_folder
        self._encoder = ImageEncoder(folder, preprocessing(folder), dtype, device)
        self.blank = self._encoder.blank
        self._read = self._encoder.encode if fusion.reads is Reads.POOLED else self._encoder.patches

    def __call__(self, images: Sequence[Image]) -> "torch.Tensor":
        """float32 [images, vectors, vision_dim] of pictures of the view; `pooled` is one vector."""
        features = self._read(images)
        return features.reshape(len(images), -1, features.shape[-1])


def prefix(model: Any, fusion: Fusion, features: "torch.Tensor") -> "torch.Tensor":
    """float32 [images, words, llm_dim] of features [images, vectors, vision_dim]."""
    words: torch.Tensor = model(features)
    return words.reshape(len(features), -1, fusion.llm_dim)
