"""Text about pictures, by any model that `AutoModelForImageTextToText` of transformers loads."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.base import Image
from stages.checkpoints import quiet, read_json, resolve
from stages.generators.loading import load_model
from stages.generators.pictures import Encoded, Key, PictureEncoder, picture_key, to_pil
from stages.generators.prompts import Prompt, PromptRenderer
from stages.generators.protocol import (
    FinishReason,
    GenerationError,
    GeneratorConfig,
    GeneratorRun,
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


@functools.cache
def load_generator(config: GeneratorConfig, run: GeneratorRun) -> "ImageTextToText":
    """One model per process: captions and answers by the same one share it. Raises: ModelLoadError."""
    return ImageTextToText(config, run)


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
        self._config, self._batch_size = config, run.batch_size
        self._loaded = load_model(config, run)
        self._model, self._processor = self._loaded.model, self._loaded.processor
        self._render = PromptRenderer(self._processor)
        encoder = PictureEncoder(self._model, self._processor, run.max_kept_mb * 1_000_000)
        with torch.inference_mode(), quiet():
            able = encoder.can_encode(self._render("a"), self._render("is it red?"))
        self._encoder = encoder if able else None

    @property
    def encodes_once(self) -> bool:
        """Whether requests that share a picture share its encoding."""
        return self._encoder is not None

    def generate(self, requests: Sequence[Request], /) -> list[Result]:
        import torch

        results: list[Result] = []
        with torch.inference_mode(), quiet():
            for rows in self._parts(requests):
                results.extend(self._generate_rows(rows))
        self._render.forget()
        return results

    def _parts(self, requests: Sequence[Request]) -> Iterator[list[_Row]]:
        """All rows of `batch_size` pictures at a time; pictures and prompts of similar size together."""
        images, asked = _by_picture(requests)
        if self._encoder:
            self._encoder.keep_only(images)

        def cost(key: Key) -> tuple[int, tuple[int, ...]]:
            return max(len(self._render(prompt)) for prompt in asked[key]), images[key].shape

        ordered = sorted(images, key=cost)
        for start in range(0, len(ordered), self._batch_size):
            part = {key: images[key] for key in ordered[start : start + self._batch_size]}
            pictures = self._encode(part, next(iter(asked[ordered[start]])))
            yield [
                _Row(ids, key, image, self._render(prompt), pictures.get(key))
                for key, image in part.items()
                for prompt, ids in asked[key].items()
            ]

    def _encode(self, images: Mapping[Key, Image], prompt: str) -> Mapping[Key, Encoded]:
        return self._encoder.encode(images, self._render(prompt)) if self._encoder else {}

    def _generate_rows(self, rows: Sequence[_Row]) -> Iterator[Result]:
        by_prompt = _same_prompts(rows)
        prefix = self._read_pictures(by_prompt[0]) if by_prompt else None
        if prefix is None:
            for batch in self._batches(rows):
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

    def _batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows of similar length; those with encoded pictures apart from the others."""
        batch: list[_Row] = []
        for row in sorted(rows, key=lambda row: (row.picture is None, len(row))):
            if batch and (len(batch) == self._batch_size or not self._fit(batch[-1], row)):
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


def _by_picture(
    requests: Sequence[Request],
) -> tuple[dict[Key, Image], dict[Key, dict[str, list[int]]]]:
    """The distinct pictures, and for each its distinct prompts with the ids of who asks them."""
    images: dict[Key, Image] = {}
    asked: dict[Key, dict[str, list[int]]] = {}
    keys: dict[int, Key] = {}  # by object, so that a picture is digested once for all its prompts
    for request in requests:
        if id(request.image) not in keys:
            keys[id(request.image)] = picture_key(request.image)
        key = keys[id(request.image)]
        images.setdefault(key, request.image)
        asked.setdefault(key, {}).setdefault(request.prompt, []).append(request.id)
    return images, asked


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
