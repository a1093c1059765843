"""Text about pictures by a text model that reads projected vision features as words."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from stages.base import Image
from stages.batching import Batches, Failure, OnOom
from stages.checkpoints import Device, ModelLoadError, quiet, resolve, weights_digest
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.fusion import lora
from stages.generators.fusion.model import (
    ADAPTER,
    VisionFeatures,
    fusion_view,
    load_projector,
    prefix,
    read_fusion,
)
from stages.generators.fusion.prefixed import Prefixed
from stages.generators.local.asked import Ask, AskedPictures, by_pictures
from stages.generators.local.decoding import Decoder
from stages.generators.local.pictures import Key
from stages.generators.local.rows import Room, Row
from stages.generators.local.text_model import load_text_model, require_room
from stages.generators.protocol import FailedRequest, GenerationError, Request, Result
from stages.resize import ResizeConfig

if TYPE_CHECKING:
    import torch


def picture_view(config: GeneratorConfig) -> ResizeConfig:
    """The view that the vision tower reads, without loading the model. Raises: ModelLoadError."""
    if config.max_side is not None:
        raise ModelLoadError(f"generator.max_side must be unset for {config.backend}: its tower has one size")
    return fusion_view(read_fusion(resolve(config.model, config.revision)))


def identity(config: GeneratorConfig) -> dict[str, Any]:
    """Settings, and the digests of projector, adapter, tower and text model. Raises: ModelLoadError."""
    folder = resolve(config.model, config.revision)
    fusion = read_fusion(folder)
    weights = {"fusion": weights_digest(folder), "vision": fusion.vision_weights, "llm": fusion.llm_weights}
    if (folder / ADAPTER).is_dir():
        weights["adapter"] = weights_digest(folder / ADAPTER)
    settings = {key: value for key, value in asdict(config).items() if key not in ("model", "revision")}
    return {**settings, "weights": weights}


class FeaturePrefix:
    """A `Generator` of a frozen vision tower, a trained projector and a text model.

    A picture is seen once for all that is asked about it. The thinking of a model that thinks is apart, as
    `TextModel` has it. Raises: ModelLoadError on construction.
    """

    def __init__(self, config: GeneratorConfig, run: GeneratorRun) -> None:
        import torch

        if run.threads is not None:
            torch.set_num_threads(run.threads)
        folder = resolve(config.model, config.revision)
        self._config, self._run, self._fusion = config, run, read_fusion(folder)
        text = replace(config, model=self._fusion.llm, revision=self._fusion.llm_revision)
        self._loaded = lora.tuned(load_text_model(text, run), folder / ADAPTER)
        self._see = VisionFeatures(self._fusion, config.dtype, run.device)
        self._projector = load_projector(self._fusion, folder, self._loaded.model.device)
        self._prompts, self._decoder = Prefixed(self._loaded), Decoder(self._loaded, config)
        self._kept: dict[Key, torch.Tensor] = {}
        self._batches = Batches[AskedPictures, list[Result]](
            run.batch_size,
            self._answer,
            self._blank,
            self._answer_on_cpu if run.on_oom is OnOom.CPU else None,
            self._kept.clear,
            fatal=(GenerationError, ModelLoadError),
        )

    @property
    def notes(self) -> Sequence[str]:
        return self._batches.notes

    def generate(self, requests: Sequence[Request], /) -> list[Result | FailedRequest]:
        import torch

        asked = sorted(by_pictures(requests), key=lambda one: max(len(ask.prompt) for ask in one.asks))
        self._keep_only(key for one in asked for key in one.keys)
        with torch.inference_mode(), quiet():
            outcomes = self._batches.run(asked)
        return [
            result
            for one, outcome in zip(asked, outcomes, strict=True)
            for result in (one.failed(outcome) if isinstance(outcome, Failure) else outcome)
        ]

    def _blank(self, asked: AskedPictures) -> AskedPictures:
        """The tower reads pictures of its own size only."""
        blank = asked.blank()
        return replace(blank, images=tuple(self._see.blank(image) for image in asked.images))

    def _answer(self, asked: Sequence[AskedPictures], limit: int) -> list[list[Result]]:
        """For each the results of all that is asked; `limit` rows a batch at most."""
        words = self._words(
            {key: image for one in asked for key, image in zip(one.keys, one.images, strict=True)}, limit
        )
        rows = [self._row(one, ask, ids) for one in asked for ask, ids in one.asks.items()]
        sizes = {id(row): len(row.prompt) + sum(len(words[key]) for key in row.asked.keys) for row in rows}
        require_room(self._loaded, max(sizes.values()), self._config.max_new_tokens)
        room = Room(limit, self._run.batch_tokens, self._config.max_new_tokens)
        made: dict[int, Result] = {}
        for batch in room.cut(rows, lambda row: ((), sizes[id(row)])):
            inputs = self._inputs(batch, words)
            made |= {one.id: one for one in self._decoder.write(batch, inputs)}
        return [[made[id] for id in one.ids] for one in asked]

    def _row(self, asked: AskedPictures, ask: Ask, ids: Sequence[int]) -> Row:
        prompt = self._prompts.prompt(ask.prompt, ask.turns, len(asked.images))
        return Row(ids, asked, ask, prompt, None)

    def _inputs(self, rows: Sequence[Row], words: Mapping[Key, "torch.Tensor"]) -> dict[str, Any]:
        """`input_ids` hold nothing but the length that `generate` is to take off its output."""
        import torch

        inputs = self._prompts.padded(
            [(row.prompt.pieces, [words[key] for key in row.asked.keys]) for row in rows], "left"
        )
        return {**inputs, "input_ids": torch.zeros_like(inputs["attention_mask"])}

    def _words(self, images: Mapping[Key, Image], limit: int) -> Mapping[Key, "torch.Tensor"]:
        """For each picture float32 [words, llm_dim]; those of this call are kept."""
        fresh = [key for key in images if key not in self._kept]
        for start in range(0, len(fresh), limit):
            part = fresh[start : start + limit]
            features = self._see([images[key] for key in part])
            made = prefix(self._projector, self._fusion, features)
            self._kept |= {key: one.clone() for key, one in zip(part, made, strict=True)}
        return {key: self._kept[key] for key in images}

    def _keep_only(self, keys: Iterable[Key]) -> None:
        wanted = set(keys)
        for key in self._kept.keys() - wanted:
            del self._kept[key]

    def _answer_on_cpu(self, asked: Sequence[AskedPictures], limit: int) -> list[list[Result]]:
        return self._on_cpu._answer(asked, limit)

    @functools.cached_property
    def _on_cpu(self) -> "FeaturePrefix":
        """The same weights on the CPU, loaded by the first picture that comes, and kept."""
        if self._loaded.model.device.type == "cpu":
            return self
        return FeaturePrefix(self._config, replace(self._run, device=Device.CPU, on_oom=OnOom.ROW))
