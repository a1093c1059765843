"""Pictures and text to unit vectors, by the encoders of `stages.towers`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.base import Image, unpack_views, with_notes
from stages.batching import Batches, Failure, OnOom, Work
from stages.checkpoints import Device, Dtype, ModelLoadError, resolve
from stages.image_encoder import ImageEncoder, unit
from stages.preprocess import preprocessing
from stages.resize import Policy, ResizeConfig
from stages.schemas import Status, embedding_column
from stages.towers import Family, family, geometry, load_text_tower, load_tokenizer, pooled

VERSION = 2
"""Part of the fingerprint: raised whenever the same config gives other vectors."""

Vectors: TypeAlias = npt.NDArray[np.float32]


class EmbedError(RuntimeError):
    """A model that answers with vectors that are not finite, whatever it is given."""


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
    on_oom: OnOom = (
        OnOom.ROW
    )  # an image that runs out of memory alone; cpu: needs memory for the weights there

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
    """(rows with the view of `encoder_view`, `status`, `error`) -> the same rows + `embedding`.

    `embedding` is an `embedding_column(dim)` struct in every row. Its vector is of unit length in float32 and
    then rounded. It is null where the view is null, and the status then is the item's, and where the model
    fails on the picture. Raises: ModelLoadError; EmbedError, and what the model raises, if on any picture.
    """

    def __init__(self, config: EmbedConfig, run: EmbedRun, view: str) -> None:
        folder = resolve(config.model, config.revision)
        _set_threads(run.threads)
        self._model_name, self._view, self._dim = config.model, view, geometry(folder).dim
        load = partial(ImageEncoder, folder, preprocessing(folder, config.resize), config.dtype)
        self._encoder = load(run.device)
        self._batches = Batches[Image, Any](
            run.batch_size,
            lambda images, _: self._encoder.encode(images),
            self._encoder.blank,
            _on_cpu(self._encoder, load) if run.on_oom is OnOom.CPU else None,
            fatal=(ModelLoadError,),
        )

    def __call__(self, shard: pa.Table) -> pa.Table:
        images = unpack_views(shard, self._view)
        outcomes = self._embed({row: image for row, image in enumerate(images) if image is not None})
        items = zip(shard.column("status").to_pylist(), shard.column("error").to_pylist(), strict=True)
        column = _column([outcomes.get(row, item) for row, item in enumerate(items)], self._dim)
        return with_notes(shard.append_column("embedding", column), self._batches.notes)

    def _embed(self, images: Mapping[int, Image]) -> dict[int, Vectors | Failure]:
        """By row: float32 [dim], or why there is none."""
        import torch

        # Pictures of similar size together, so that little of a batch is padding.
        rows = sorted(images, key=lambda row: images[row].size)
        with torch.inference_mode():
            found = dict(zip(rows, self._batches.run([images[row] for row in rows]), strict=True))
            made = [row for row in rows if not isinstance(found[row], Failure)]
            # Here the GPU is waited for, once; an assert in it that came unnoticed until now is raised.
            vectors = dict(zip(made, _to_host([found[row] for row in made]), strict=True))
            wrong = [row for row in made if not np.isfinite(vectors[row]).all()]
            if wrong and wrong == made:
                self._require_sound(images[wrong[0]])
        return found | vectors | dict.fromkeys(wrong, Failure(Status.FAILED, "the embedding is not finite"))

    def _require_sound(self, image: Image) -> None:
        """Raises: EmbedError if the model's vectors are not finite for a blank picture either."""
        if not self._encoder.encode([self._encoder.blank(image)]).isfinite().all():
            raise EmbedError(f"{self._model_name} gives vectors that are not finite, whatever the picture")


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
                vectors[batch] = unit(pooled(self._tower(**self._tokens(texts[batch])))).cpu().numpy()
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


def _not_finite(vectors: Vectors) -> npt.NDArray[np.intp]:
    """Rows that hold an infinity or NaN."""
    return np.flatnonzero(~np.isfinite(vectors).all(axis=1))


def _on_cpu(encoder: ImageEncoder, load: Callable[[Device], ImageEncoder]) -> Work[Image, Any]:
    """The same weights on the CPU, loaded by the first picture that comes and kept."""
    loaded = cache(lambda: encoder if encoder.device.type == "cpu" else load(Device.CPU))
    return lambda images, _: loaded().encode(images).to(encoder.device)


def _to_host(vectors: Sequence[Any]) -> Vectors:
    """Tensors float32 [dim] as one array [vectors, dim]."""
    import torch

    return torch.stack(list(vectors)).cpu().numpy() if vectors else np.empty((0, 0), np.float32)


def _column(outcomes: Sequence[Vectors | Failure | tuple[str, str | None]], dim: int) -> pa.Array:
    """An `embedding_column(dim)` of vectors float32 [dim], failures, and the (status, error) of items."""
    vectors = np.zeros((len(outcomes), dim), dtype=np.float16)
    ends: list[tuple[str, str | None]] = []
    for row, outcome in enumerate(outcomes):
        match outcome:
            case np.ndarray():
                vectors[row] = outcome
                ends.append((Status.OK, None))
            case Failure():
                ends.append((outcome.status, outcome.error))
            case _:
                ends.append(outcome)
    kind = embedding_column(dim)
    statuses, errors = (pa.array([end[part] for end in ends], pa.string()) for part in (0, 1))
    missing = pa.array([not isinstance(outcome, np.ndarray) for outcome in outcomes], pa.bool_())
    values = pa.array(vectors.reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(values, type=kind.field("embedding").type, mask=missing)
    return pa.StructArray.from_arrays([lists, statuses, errors], fields=list(kind))


def _set_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
