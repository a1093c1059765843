"""Text about pictures, by any model that `AutoModelForImageTextToText` of transformers loads."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.base import Image
from stages.batching import Batches, Failure, OnOom
from stages.checkpoints import Device, ModelLoadError, quiet, read_json, resolve
from stages.generators.asked import AskedPicture, by_picture
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.loading import load_model
from stages.generators.pictures import Encoded, Key, PictureEncoder, to_pil
from stages.generators.prompts import Prompt, PromptRenderer
from stages.generators.protocol import (
    FailedRequest,
    FinishReason,
    GenerationError,
    Request,
    Result,
)
from stages.generators.sampling import GumbelNoise, row_seed
from stages.resize import Policy, ResizeConfig

_LARGEST_SIDE = 1536


def picture_view(config: GeneratorConfig) -> ResizeConfig:
    """The view whose pictures the model's own processor is given, without loading the model.

    Raises: ModelLoadError.
    """
    side = config.max_side or _useful_side(resolve(config.model, config.revision))
    return ResizeConfig(policy=Policy.FIT, size=side)


def _useful_side(folder: Path) -> int:
    """The longest side that the checkpoint's processor makes use of."""
    whole = (folder / "processor_config.json").is_file()
    found = read_json(folder, "processor_config.json").get("image_processor") if whole else None
    size = (found or read_json(folder, "preprocessor_config.json")).get("size")
    match size:
        case int():
            side = 2 * size
        case {"longest_edge": int(side)} if side:
            pass
        case {"shortest_edge": int(edge)}:
            side = 2 * edge  # pictures up to 2:1 lose nothing
        case {"height": int(height), "width": int(width)}:
            side = max(height, width)
        case _:
            side = _LARGEST_SIDE
    return min(side, _LARGEST_SIDE)


@dataclass(frozen=True, eq=False)
class _Row:
    """One prompt about one picture, for all requests that ask it.

    `picture` is None where the model takes picture and prompt together.
    """

    ids: Sequence[int]
    key: Key
    image: Image
    prompt: Prompt
    picture: Encoded | None

    def __len__(self) -> int:
        return len(self.prompt) + (len(self.picture.tokens) if self.picture else 0)


class ImageTextToText:
    """A `Generator` on a model in this process.

    Greedy texts are equal in any batch, up to rounding; sampled ones too, as each draws from its own seed.
    Raises: ModelLoadError on construction.
    """

    def __init__(self, config: GeneratorConfig, run: GeneratorRun) -> None:
        import torch

        if run.threads is not None:
            torch.set_num_threads(run.threads)
        self._config, self._run = config, run
        self._loaded = load_model(config, run)
        self._model, self._processor = self._loaded.model, self._loaded.processor
        self._render = PromptRenderer(self._processor)
        encoder = PictureEncoder(self._model, self._processor, run.max_kept_mb * 1_000_000)
        with torch.inference_mode(), quiet():
            able = encoder.can_encode(self._render("a"), self._render("is it red?"))
        self._encoder = encoder if able else None
        self._batches = Batches[AskedPicture, list[Result]](
            run.batch_size,
            self._answer,
            AskedPicture.blank,
            self._answer_on_cpu if run.on_oom is OnOom.CPU else None,
            self._forget_pictures,
            fatal=(GenerationError, ModelLoadError),
        )

    @property
    def encodes_once(self) -> bool:
        """Whether requests that share a picture share its encoding."""
        return self._encoder is not None

    @property
    def notes(self) -> Sequence[str]:
        return self._batches.notes

    def generate(self, requests: Sequence[Request], /) -> list[Result | FailedRequest]:
        import torch

        with torch.inference_mode(), quiet():
            pictures = sorted(by_picture(requests), key=self._cost)
            if self._encoder:
                self._encoder.keep_only(picture.key for picture in pictures)
            outcomes = self._batches.run(pictures)
        self._render.forget()
        return [
            result
            for picture, outcome in zip(pictures, outcomes, strict=True)
            for result in (picture.failed(outcome) if isinstance(outcome, Failure) else outcome)
        ]

    def _cost(self, picture: AskedPicture) -> tuple[int, tuple[int, ...]]:
        """By which pictures and prompts of similar size come together."""
        return max(len(self._render(prompt)) for prompt in picture.prompts), picture.image.shape

    def _answer(self, pictures: Sequence[AskedPicture], limit: int) -> list[list[Result]]:
        """For each picture the results of all that is asked about it; `limit` rows a batch at most."""
        encoded = self._encode(pictures)
        rows = [
            _Row(ids, picture.key, picture.image, self._render(prompt), encoded.get(picture.key))
            for picture in pictures
            for prompt, ids in picture.prompts.items()
        ]
        made = {result.id: result for result in self._generate_rows(rows, limit)}
        return [[made[id] for id in picture.ids] for picture in pictures]

    def _encode(self, pictures: Sequence[AskedPicture]) -> Mapping[Key, Encoded]:
        if not self._encoder:
            return {}
        images = {picture.key: picture.image for picture in pictures}
        return self._encoder.encode(images, self._render(next(iter(pictures[0].prompts))))

    def _forget_pictures(self) -> None:
        if self._encoder:
            self._encoder.keep_only(())

    def _answer_on_cpu(self, pictures: Sequence[AskedPicture], limit: int) -> list[list[Result]]:
        return self._on_cpu._answer(pictures, limit)

    @functools.cached_property
    def _on_cpu(self) -> "ImageTextToText":
        """The same weights on the CPU, loaded by the first picture that comes, and kept."""
        if self._model.device.type == "cpu":
            return self
        run = replace(self._run, device=Device.CPU, max_kept_mb=0, on_oom=OnOom.ROW)
        return ImageTextToText(self._config, run)

    def _generate_rows(self, rows: Sequence[_Row], limit: int) -> Iterator[Result]:
        by_prompt = _same_prompts(rows)
        prefix = self._read_pictures(by_prompt[0]) if by_prompt else None
        if prefix is None:
            for batch in self._even(rows, limit):
                yield from self._generate(batch)
            return
        length = prefix.get_seq_length()
        for batch in by_prompt:
            yield from self._generate(batch, prefix)
            prefix.crop(length - prefix.get_seq_length())

    def _read_pictures(self, rows: Sequence[_Row]) -> Any:
        """The language model's cache after the pictures, for all prompts that follow; None if it has none
        that can be cut back. On the pocket model, two questions a picture take 0.75 of the time.
        """
        from transformers.cache_utils import DynamicLayer

        inputs = self._encoded_inputs(rows, [[*row.prompt.before, *_picture(row).tokens] for row in rows])
        cache = self._model.base_model(**inputs, use_cache=True).past_key_values
        layers = getattr(cache, "layers", [None])
        return cache if all(type(layer) is DynamicLayer for layer in layers) else None

    def _even(self, rows: Sequence[_Row], limit: int) -> Iterator[list[_Row]]:
        """Batches of rows of similar length; those with encoded pictures apart from the others."""
        batch: list[_Row] = []
        for row in sorted(rows, key=lambda row: (row.picture is None, len(row))):
            if batch and (len(batch) == limit or not self._fit(batch[-1], row)):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _fit(self, one: _Row, other: _Row) -> bool:
        same_way = (one.picture is None) == (other.picture is None)
        return same_way and (self._loaded.pads or len(one) == len(other))

    def _generate(self, rows: Sequence[_Row], prefix: Any = None) -> Iterator[Result]:
        inputs = self._inputs(rows, prefix)
        if not bool(inputs["attention_mask"][:, -1].all()):
            raise GenerationError("the prompts of a batch are padded on the right")
        noise = self._noise(rows)
        processors = {"logits_processor": self._warpers(noise)} if noise else {}
        tokens = self._model.generate(**inputs, generation_config=self._loaded.settings, **processors)
        if noise and not noise.used:
            raise GenerationError(f"{self._config.model} cannot sample: generator.temperature must be 0")
        start = inputs["input_ids"].shape[1] - self._loaded.dropped
        lengths = (inputs["attention_mask"].sum(dim=1) - self._loaded.dropped).tolist()
        return self._results(rows, tokens[:, start:].tolist(), lengths)

    def _inputs(self, rows: Sequence[_Row], prefix: Any) -> dict[str, Any]:
        if rows[0].picture is None:
            return self._plain_inputs(rows)
        inputs = self._encoded_inputs(rows, [row.prompt.around(_picture(row).tokens) for row in rows])
        if prefix is not None:
            del inputs["mm_encoder_outputs"]
            inputs["past_key_values"] = prefix
        return inputs

    def _plain_inputs(self, rows: Sequence[_Row]) -> dict[str, Any]:
        batch = self._processor(
            images=[to_pil(row.image) for row in rows],
            text=[row.prompt.text for row in rows],
            padding=True,
            add_special_tokens=rows[0].prompt.special_tokens,
            return_tensors="pt",
        )
        return dict(batch.to(self._model.device, self._model.dtype))

    def _encoded_inputs(self, rows: Sequence[_Row], tokens: Sequence[Sequence[int]]) -> dict[str, Any]:
        assert self._encoder
        padded = self._processor.tokenizer.pad({"input_ids": tokens}, return_tensors="pt")
        features = self._encoder.outputs([_picture(row) for row in rows])
        return {**padded.to(self._model.device), "mm_encoder_outputs": features}

    def _noise(self, rows: Sequence[_Row]) -> GumbelNoise | None:
        if self._config.temperature == 0:
            return None
        seeds = [row_seed(self._config.seed, row.key, row.prompt.text) for row in rows]
        return GumbelNoise(seeds, self._model.device)

    def _warpers(self, noise: GumbelNoise) -> Any:
        from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

        temperature = TemperatureLogitsWarper(float(self._config.temperature))
        return LogitsProcessorList([temperature, TopPLogitsWarper(self._config.top_p), noise])

    def _results(
        self, rows: Sequence[_Row], completions: Sequence[Sequence[int]], prompt_tokens: Sequence[int]
    ) -> Iterator[Result]:
        ends = [_end(completion, self._loaded.ends) for completion in completions]
        made = [completion[:end] for completion, (end, _) in zip(completions, ends, strict=True)]
        texts = self._processor.tokenizer.batch_decode(made, skip_special_tokens=True)
        for row, text, prompt, (end, reason) in zip(rows, texts, prompt_tokens, ends, strict=True):
            for id in row.ids:
                yield Result(id, text.strip(), reason, prompt, end)


def _same_prompts(rows: Sequence[_Row]) -> list[list[_Row]]:
    """The rows of each prompt, if the same ones, two or more, are asked about all pictures, and what comes
    before these prompts is of one length; else nothing.
    """
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(row.prompt.text, []).append(row)
    starts = {(row.prompt.before, len(row.picture.tokens) if row.picture else 0) for row in rows}
    pictures = {row.key for row in rows if row.picture}
    even = all(len(group) == len(pictures) for group in groups.values())
    return list(groups.values()) if even and len(groups) > 1 and len(starts) == 1 else []


def _picture(row: _Row) -> Encoded:
    assert row.picture
    return row.picture


def _end(completion: Sequence[int], ends: frozenset[int]) -> tuple[int, FinishReason]:
    """How many tokens were generated, with the one that ends the text and without the padding after it."""
    for position, token in enumerate(completion):
        if token in ends:
            return position + 1, FinishReason.STOP
    return len(completion), FinishReason.LENGTH
