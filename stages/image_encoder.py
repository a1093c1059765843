"""Pictures of one view to unit vectors: one forward pass of an image tower."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.base import Image
from stages.checkpoints import Device, Dtype, ModelLoadError
from stages.preprocess import Preprocessing
from stages.towers import Family, family, geometry, load_image_tower, pooled

if TYPE_CHECKING:
    import torch

_GREY = 127


class ImageEncoder:
    """An image tower on its device, with the preprocessing of its pixels. Raises: ModelLoadError."""

    def __init__(self, folder: Path, steps: Preprocessing, dtype: Dtype, device: Device) -> None:
        self._kind, self._patch = family(folder), geometry(folder).patch_size
        self._tower = load_image_tower(folder, dtype, device)
        self._scale, self._shift = _affine(steps, self._tower.device)

    @property
    def device(self) -> "torch.device":
        device: torch.device = self._tower.device
        return device

    def encode(self, images: Sequence[Image]) -> "torch.Tensor":
        """float32 [images, dim] of unit length, on the device, which is not waited for."""
        return unit(
            pooled(self._forward_patches(images) if self._kind is Family.SIGLIP2 else self._forward(images))
        )

    def patches(self, images: Sequence[Image]) -> "torch.Tensor":
        """float32 [images, patches, width]: what the tower sees of each patch, in reading order.

        Of CLIP the last layer but one, as in LLaVA: its last serves the pooled vector only. Raises:
        ModelLoadError for SigLIP 2, whose pictures have unlike numbers of them.
        """
        match self._kind:
            case Family.SIGLIP2:
                raise ModelLoadError("patches of a siglip2 tower differ in number; pooled vectors do not")
            case Family.CLIP:
                states = self._forward(images, output_hidden_states=True).hidden_states[-2][:, 1:]
            case Family.SIGLIP:
                states = self._forward(images).last_hidden_state
            case Family.VIT | Family.DINOV2:
                states = self._forward(images).last_hidden_state[:, 1:]
        vectors: torch.Tensor = states.float()
        return vectors

    def blank(self, image: Image) -> Image:
        """A grey picture that the model reads, as small as it can be: of one patch, or else as `image`."""
        side = self._patch
        shape = (side, side, 3) if self._kind is Family.SIGLIP2 else image.shape
        return np.full(shape, _GREY, np.uint8)

    def _forward(self, images: Sequence[Image], **options: bool) -> Any:
        staged = self._staging(len(images), *images[0].shape)
        np.stack(images, out=staged.numpy())
        pixels = self._normalised(staged)
        return self._tower(pixel_values=pixels.permute(0, 3, 1, 2), **options)

    def _forward_patches(self, images: Sequence[Image]) -> Any:
        """NaFlex: each picture a sequence of patches, padded to the longest of the batch and masked."""
        import torch

        patch = self._patch
        grids = torch.tensor([[image.shape[0] // patch, image.shape[1] // patch] for image in images])
        lengths = grids.prod(dim=1)
        longest = int(lengths.max())
        staged = self._staging(len(images), longest, patch * patch, 3)
        for image, rows in zip(images, staged.numpy(), strict=True):
            _fill_patches(rows, image, patch)
        # Without padding a mask would only keep the attention from its fastest kernel.
        mask = torch.arange(longest) < lengths[:, None] if int(lengths.min()) < longest else None
        return self._tower(
            pixel_values=self._normalised(staged).flatten(2),
            pixel_attention_mask=None if mask is None else self._to_device(mask),
            spatial_shapes=grids,  # stays on the CPU: the model reads it row by row
        )

    def _staging(self, *shape: int) -> "torch.Tensor":
        import torch

        return torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def _to_device(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """Out of page-locked memory where there is a GPU: only then the host need not wait for the copy."""
        pinned = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return pinned.to(self.device, non_blocking=True)

    def _normalised(self, staged: "torch.Tensor") -> "torch.Tensor":
        """uint8 [..., 3] to the model's dtype on its device, where 1 byte a value is moved, not 4."""
        pixels = self._to_device(staged).float()
        return pixels.mul_(self._scale).add_(self._shift).to(self._tower.dtype)


def unit(vectors: "torch.Tensor") -> "torch.Tensor":
    """In float32; a vector of length 0 becomes NaN, to be found with the others that are not finite."""
    vectors = vectors.float()
    return vectors.div_(vectors.square().sum(dim=-1, keepdim=True).sqrt())


def _affine(steps: Preprocessing, device: "torch.device") -> tuple["torch.Tensor", "torch.Tensor"]:
    """`(pixel * rescale - mean) / std` as one factor and one summand per channel, float32 [3] each."""
    import torch

    std = torch.tensor(steps.std, dtype=torch.float32)
    mean = torch.tensor(steps.mean, dtype=torch.float32)
    return (steps.rescale / std).to(device), (-mean / std).to(device)


def _fill_patches(rows: npt.NDArray[np.uint8], image: Image, patch: int) -> None:
    """Cuts an image into its patches, row by row, into `rows` [at least patches, patch * patch, 3]."""
    down, across = image.shape[0] // patch, image.shape[1] // patch
    cut = image.reshape(down, patch, across, patch, 3).swapaxes(1, 2)
    rows[: down * across] = cut.reshape(down * across, patch * patch, 3)
    rows[down * across :] = 0
