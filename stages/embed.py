"""Pictures and text to unit vectors, by the encoders of `stages.towers`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.base import Image, unpack_views
from stages.checkpoints import Device, Dtype, resolve
from stages.preprocess import Preprocessing, preprocessing
from stages.resize import Policy, ResizeConfig
from stages.towers import Family, family, geometry, load_image_tower, load_text_tower, load_tokenizer, pooled

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Part of the fingerprint: raised whenever the same config gives other vectors."""

Vectors: TypeAlias = npt.NDArray[np.float32]


class EmbedError(RuntimeError):
    """A model that answers with vectors that are not finite. The message names the rows."""


@dataclass(frozen=True)
class EmbedConfig:
    """What an embedding is: everything here changes its values."""

    model: str  # pocket:NAME, a checkpoint folder, or a Hugging Face hub id
    revision: str | None = None  # of the hub id: a commit, tag or branch
    resize: ResizeConfig | None = None  # unset: as the checkpoint's own image processor
    dtype: Dtype = Dtype.AUTO

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("encoder.model must be pocket:NAME, a checkpoint folder or a hub id, got ''")


@dataclass(frozen=True)
class EmbedRun:
    """How embeddings are computed: nothing here changes their values beyond rounding."""

    batch_size: int = 64
    device: Device = Device.AUTO
    threads: int | None = None  # of torch on the CPU; unset: torch's own choice

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"encoder.batch_size must be at least 1, got {self.batch_size}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"encoder.threads must be at least 1 or unset, got {self.threads}")


def embedding_dim(config: EmbedConfig) -> int:
    """Length of the vectors, without loading the model. Raises: ModelLoadError."""
    return geometry(resolve(config.model, config.revision)).dim


def encoder_view(config: EmbedConfig) -> ResizeConfig:
    """The view that the encoder reads, without loading the model.

    Raises: ModelLoadError; ValueError if the view gives pictures that the model cannot read.
    """
    folder = resolve(config.model, config.revision)
    view = preprocessing(folder, config.resize).resize
    _check_view(folder, view)
    return view


def _check_view(folder: Path, view: ResizeConfig) -> None:
    kind, size = family(folder), geometry(folder)
    patchy = view.policy is Policy.PATCH_BUDGET
    if kind is Family.SIGLIP2:
        if not patchy or view.patch != size.patch_size:
            raise ValueError(f"encoder.resize must be policy patch_budget with patch {size.patch_size}")
        return
    if patchy or view.policy is Policy.FIT:
        raise ValueError(f"encoder.resize.policy must be square, squash or pad, got {view.policy}")
    height, width = _canvas(view)
    if kind is Family.DINOV2:
        if height % size.patch_size or width % size.patch_size:
            raise ValueError(
                f"encoder.resize must give multiples of {size.patch_size}, got {height} x {width}"
            )
    elif (height, width) != (size.image_size, size.image_size):
        side = size.image_size
        raise ValueError(f"encoder.resize must give {side} x {side} pixels, got {height} x {width}")


def _canvas(view: ResizeConfig) -> tuple[int, int]:
    side = view.crop or view.size if view.policy is Policy.SQUARE else view.size
    if view.policy is Policy.SQUASH:
        return view.height or side, view.width or side
    return side, side


class EmbedImages:
    """(rows with the view of `encoder_view`) -> the same rows + `embedding`.

    `embedding` is fixed_size_list<halffloat>[dim]: of unit length in float32 and then rounded; null where
    the view is null. Raises: ModelLoadError on construction; EmbedError for vectors that are not finite.
    """

    def __init__(self, config: EmbedConfig, run: EmbedRun, view: str) -> None:
        folder = resolve(config.model, config.revision)
        _set_threads(run.threads)
        self._model_name, self._view, self._batch_size = config.model, view, run.batch_size
        self._kind, self._geometry = family(folder), geometry(folder)
        self._tower = load_image_tower(folder, config.dtype, run.device)
        self._scale, self._shift = _affine(preprocessing(folder, config.resize), self._tower.device)

    def __call__(self, shard: pa.Table) -> pa.Table:
        images = unpack_views(shard, self._view)
        present = np.array([image is not None for image in images], dtype=bool)
        vectors = np.zeros((len(images), self._geometry.dim), dtype=np.float32)
        if present.any():
            vectors[present] = self._embed([image for image in images if image is not None])
        self._require_finite(shard, vectors)
        return shard.append_column("embedding", _column(vectors, present))

    def _embed(self, images: Sequence[Image]) -> Vectors:
        """float32 [images, dim]. The GPU is waited for once, at the end."""
        import torch

        batches = list(self._batches(images))
        with torch.inference_mode():
            parts = [_unit(self._forward([images[row] for row in batch])) for batch in batches]
            ordered = torch.cat(parts).cpu().numpy()
        vectors = np.empty_like(ordered)
        vectors[np.concatenate(batches)] = ordered
        return vectors

    def _batches(self, images: Sequence[Image]) -> Iterator[npt.NDArray[np.intp]]:
        """Rows of one forward pass each: of similar size, so that little of a batch is padding."""
        order = np.argsort([image.size for image in images], kind="stable")
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size]

    def _forward(self, images: Sequence[Image]) -> "torch.Tensor":
        if self._kind is Family.SIGLIP2:
            return self._forward_patches(images)
        staged = self._staging(len(images), *images[0].shape)
        np.stack(images, out=staged.numpy())
        pixels = self._normalised(staged)
        return pooled(self._tower(pixel_values=pixels.permute(0, 3, 1, 2)))

    def _forward_patches(self, images: Sequence[Image]) -> "torch.Tensor":
        """NaFlex: each picture a sequence of patches, padded to the longest of the batch and masked."""
        import torch

        patch = self._geometry.patch_size
        grids = torch.tensor([[image.shape[0] // patch, image.shape[1] // patch] for image in images])
        lengths = grids.prod(dim=1)
        longest = int(lengths.max())
        staged = self._staging(len(images), longest, patch * patch, 3)
        for image, rows in zip(images, staged.numpy(), strict=True):
            _fill_patches(rows, image, patch)
        # Without padding a mask would only keep the attention from its fastest kernel.
        mask = torch.arange(longest) < lengths[:, None] if int(lengths.min()) < longest else None
        return pooled(
            self._tower(
                pixel_values=self._normalised(staged).flatten(2),
                pixel_attention_mask=None if mask is None else self._to_device(mask),
                spatial_shapes=grids,  # stays on the CPU: the model reads it row by row
            )
        )

    def _staging(self, *shape: int) -> "torch.Tensor":
        import torch

        return torch.empty(shape, dtype=torch.uint8, pin_memory=self._tower.device.type == "cuda")

    def _to_device(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """Out of page-locked memory where there is a GPU: only then the host need not wait for the copy."""
        device: torch.device = self._tower.device
        pinned = tensor.pin_memory() if device.type == "cuda" else tensor
        return pinned.to(device, non_blocking=True)

    def _normalised(self, staged: "torch.Tensor") -> "torch.Tensor":
        """uint8 [..., 3] to the model's dtype on its device, where 1 byte a value is moved, not 4."""
        pixels = self._to_device(staged).float()
        return pixels.mul_(self._scale).add_(self._shift).to(self._tower.dtype)

    def _require_finite(self, shard: pa.Table, vectors: Vectors) -> None:
        bad = _not_finite(vectors)
        if not len(bad):
            return
        named = "image_id" in shard.column_names
        rows = shard.column("image_id").take(pa.array(bad[:5])).to_pylist() if named else bad[:5].tolist()
        raise EmbedError(
            f"{self._model_name} gave vectors that are not finite for {len(bad)} of {len(vectors)} rows, "
            f"{'image_id' if named else 'row'} {', '.join(map(str, rows))}{', ...' if len(bad) > 5 else ''}"
        )


class TextEncoder:
    """Text to the vector space of the same model's images. Raises: ModelLoadError if it has no text tower."""

    def __init__(self, config: EmbedConfig, run: EmbedRun) -> None:
        folder = resolve(config.model, config.revision)
        _set_threads(run.threads)
        self._model_name, self._batch_size = config.model, run.batch_size
        self._kind, self._dim = family(folder), geometry(folder).dim
        self._tower = load_text_tower(folder, config.dtype, run.device)
        self._tokenizer = load_tokenizer(folder)
        # Tokenizers without a limit of their own state 1e30.
        self._max_tokens = min(self._tokenizer.model_max_length, self._tower.config.max_position_embeddings)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """float32 [texts, dim], unit length. Texts are cut at the model's number of tokens.

        Raises: EmbedError for a vector that is not finite.
        """
        import torch

        vectors = np.empty((len(texts), self._dim), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(texts), self._batch_size):
                batch = slice(start, start + self._batch_size)
                vectors[batch] = _unit(pooled(self._tower(**self._tokens(texts[batch])))).cpu().numpy()
        for row in _not_finite(vectors):
            raise EmbedError(f"{self._model_name} gave a vector that is not finite for {texts[row]!r}")
        return vectors

    def _tokens(self, texts: Sequence[str]) -> dict[str, Any]:
        # SigLIP answers at the last position and was trained on padding, unmasked: with shorter
        # padding, or with a mask, its vectors are silently others.
        siglip = self._kind in (Family.SIGLIP, Family.SIGLIP2)
        tokens = self._tokenizer(
            list(texts),
            padding="max_length" if siglip else True,
            truncation=True,
            max_length=self._max_tokens,
            return_attention_mask=not siglip,
            return_tensors="pt",
        )
        return dict(tokens.to(self._tower.device))


def _affine(steps: Preprocessing, device: "torch.device") -> tuple["torch.Tensor", "torch.Tensor"]:
    """`(pixel * rescale - mean) / std` as one factor and one summand per channel, float32 [3] each."""
    import torch

    std = torch.tensor(steps.std, dtype=torch.float32)
    mean = torch.tensor(steps.mean, dtype=torch.float32)
    return (steps.rescale / std).to(device), (-mean / std).to(device)


def _unit(vectors: "torch.Tensor") -> "torch.Tensor":
    """In float32; a vector of length 0 becomes NaN, to be found with the others that are not finite."""
    vectors = vectors.float()
    return vectors.div_(vectors.square().sum(dim=-1, keepdim=True).sqrt())


def _not_finite(vectors: Vectors) -> npt.NDArray[np.intp]:
    """Rows that hold an infinity or NaN."""
    return np.flatnonzero(~np.isfinite(vectors).all(axis=1))


def _fill_patches(rows: npt.NDArray[np.uint8], image: Image, patch: int) -> None:
    """Cuts an image into its patches, row by row, into `rows` [at least patches, patch * patch, 3]."""
    down, across = image.shape[0] // patch, image.shape[1] // patch
    cut = image.reshape(down, patch, across, patch, 3).swapaxes(1, 2)
    rows[: down * across] = cut.reshape(down * across, patch * patch, 3)
    rows[down * across :] = 0


def _column(vectors: Vectors, present: npt.NDArray[np.bool_]) -> pa.Array:
    kind = pa.list_(pa.float16(), vectors.shape[1])
    values = pa.array(vectors.astype(np.float16).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=pa.array(~present))


def _set_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
