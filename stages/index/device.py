"""Lists and codes by torch's matrix products, on any of its devices; imported where there is a GPU only."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from stages.index.blas import import_faiss
from stages.index.template import Template
from stages.index.vectors import Codes, Vectors, check_lengths, check_shape

# Sums of coordinates as integers, in units of 2^-30: exact, so the same in whatever order a GPU adds.
# Coordinates of rotated unit vectors are below 2, so 2^31 points cannot overflow.
_FIXED_POINT = float(1 << 30)


class NearestCentroids:
    """The nearest of the centroids [lists, width]: the largest x·c - |c|²/2."""

    def __init__(self, centroids: torch.Tensor) -> None:
        self.centroids = centroids
        self._minus_half_norms = centroids.square().sum(dim=1).mul_(-0.5)
        self.block_rows = _block_rows(centroids.device, 4 * len(centroids))

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """rows: float32 [n, width], n at most `block_rows`. Lists int64 [n] and squared distances [n]."""
        with _tensor_cores(rows.device):
            scores = torch.addmm(self._minus_half_norms, rows, self.centroids.T)
        best, lists = scores.max(dim=1)
        return lists, (rows.square().sum(dim=1) - 2 * best).clamp_(min=0)


class DevicePoints:
    """Points [n, width] that lie on a device as float16, as `faiss.contrib.clustering` wants its data."""

    def __init__(self, points: npt.NDArray[np.float16], device: str) -> None:
        self.x = torch.tensor(points, device=device)

    def count(self) -> int:
        return len(self.x)

    def dim(self) -> int:
        return int(self.x.shape[1])

    def get_subset(self, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        return self.x[torch.from_numpy(rows).to(self.x.device)].float()

    def assign_to(
        self, centroids: torch.Tensor, weights: None = None
    ) -> tuple[npt.NDArray[np.int64], torch.Tensor, torch.Tensor]:
        """Lists int64 [n], squared distances [n], and the sum of each list's points [lists, width]."""
        nearest = NearestCentroids(centroids)
        sums = torch.zeros(centroids.shape, dtype=torch.int64, device=self.x.device)
        found, distances = [], []
        for block in torch.split(self.x, nearest.block_rows):
            rows = block.float()
            lists, distance = nearest(rows)
            sums.index_add_(0, lists, rows.double().mul_(_FIXED_POINT).round_().long())
            found.append(lists.cpu())
            distances.append(distance)
        return torch.cat(found).numpy(), torch.cat(distances), (sums.double() / _FIXED_POINT).float()


class DeviceEncoder:
    """What `stages.index.encode.Encoder` does, on a torch device.

    Codes of product quantizers are made on the device too; others, which are cheap, by faiss.
    """

    def __init__(self, template: Template, device: str) -> None:
        self._template, self._device = template, torch.device(device)
        self._rotation = self._matrix(template)
        self._nearest = NearestCentroids(self._on_device(template.coarse.reconstruct_n(0, template.nlist)))
        self._codebooks = self._product_quantizer(template)
        scores = 256 * template.code_size if self._codebooks is not None else template.width
        rows = _block_rows(self._device, 4 * (template.dim + template.width + scores))
        self._rows = min(rows, self._nearest.block_rows)

    def __call__(self, vectors: Vectors) -> tuple[npt.NDArray[np.int64], Codes]:
        """As `Encoder`."""
        check_shape(vectors, self._template.dim)
        lengths = np.empty(len(vectors), np.float32)
        lists = np.empty(len(vectors), np.int64)
        codes = np.empty((len(vectors), self._template.code_size), np.uint8)
        for start in range(0, len(vectors), self._rows):
            part = slice(start, start + self._rows)
            raw = self._on_device(vectors[part]).float()
            norms = raw.square().sum(dim=1).sqrt_()
            rotated = self._rotate(raw.div_(norms[:, None]))
            nearest, _ = self._nearest(rotated)
            codes[part] = self._encode(rotated, nearest)
            lists[part], lengths[part] = nearest.cpu(), norms.cpu()
        check_lengths(lengths)
        return lists, codes

    def _rotate(self, unit: torch.Tensor) -> torch.Tensor:
        if self._rotation is None:
            return unit
        matrix, bias = self._rotation
        return torch.addmm(bias, unit, matrix.T)

    def _encode(self, rotated: torch.Tensor, lists: torch.Tensor) -> Codes:
        if self._codebooks is None:
            return self._template.encode(rotated.cpu().numpy(), lists.cpu().numpy())
        books, minus_half_norms = self._codebooks
        left = rotated - self._nearest.centroids[lists]
        parts = left.view(len(left), len(books), -1).transpose(0, 1)
        scores = torch.baddbmm(minus_half_norms, parts, books.transpose(1, 2))
        codes: Codes = scores.argmax(dim=2).T.to(torch.uint8).cpu().numpy()
        return codes

    def _on_device(self, array: Vectors) -> torch.Tensor:
        return torch.tensor(array, device=self._device)

    def _matrix(self, template: Template) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The rotation [width, dim] and what it adds [width]."""
        if template.rotation is None:
            return None
        held = import_faiss().downcast_VectorTransform(template.rotation)
        matrix = import_faiss().vector_to_array(held.A).reshape(template.width, template.dim)
        bias = import_faiss().vector_to_array(held.b) if held.have_bias else np.zeros(template.width, "f4")
        return self._on_device(matrix), self._on_device(bias)

    def _product_quantizer(self, template: Template) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Codebooks [parts, 256, values] and -|c|²/2 of their entries [parts, 1, 256]."""
        if not isinstance(template.ivf, import_faiss().IndexIVFPQ):
            return None
        flat = import_faiss().vector_to_array(template.ivf.pq.centroids)
        books = self._on_device(flat.reshape(template.code_size, 256, -1))
        return books, books.square().sum(dim=2).mul_(-0.5)[:, None, :]


@contextmanager
def _tensor_cores(device: torch.device) -> Iterator[None]:
    """TF32 for the products with centroids, on CUDA: several times the rate of float32.

    Its 10 bits, emulated over 65,536 clustered centroids in 256 dimensions: 99.9% of the lists are those of
    float64, and the mean squared distance to them is the same to 7 digits. What differs are near ties, so
    nothing is measured twice.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def _block_rows(device: torch.device, row_bytes: int) -> int:
    """Rows worked on at once: an eighth of the free memory of a GPU, up to 4 GiB; 64 MiB elsewhere."""
    room = 1 << 26
    if device.type == "cuda":
        room = min(1 << 32, torch.cuda.mem_get_info(device)[0] // 8)
    return max(256, min(65_536, room // row_bytes))
