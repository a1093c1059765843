"""Text about pictures, by any model that `AutoModelForImageTextToText` of transformers loads."""

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.base import Image
from stages.checkpoints import ModelLoadError, load, quiet, read_json, resolve
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
    """One request on its way: its picture is encoded, or None where the model takes it with the prompt."""

    request: Request
    key: Key
    prompt: Prompt
    picture: Encoded | None

    def __len__(self) -> int:
        return len(self.prompt) + (len(self.picture.tokens) if self.picture else 0)


class ImageTextToText:
    """A `Generator` on one model in this process. Greedy texts are equal in any batch, up to rounding;
    sampled ones too, as each draws from its own seed. Raises: ModelLoadError on construction.
    """

    def __init__(self, config: GeneratorConfig, run: GeneratorRun) -> None:
        import torch
        import transformers

        folder = resolve(config.model, config.revision)
        if run.threads is not None:
            torch.set_num_threads(run.threads)
        self._config, self._batch_size = config, run.batch_size
        self._processor = _load_processor(folder)
        self._model = load(transformers.AutoModelForImageTextToText, folder, config.dtype, run.device)
        _require_decoder_only(folder, self._model)
        self._settings = _settings(self._model, self._processor.tokenizer, config)
        self._ends = _end_tokens(self._model)
        self._cut = int(self._model.config.model_type == "blip")  # BLIP takes the last token of a prompt off
        self._render = PromptRenderer(self._processor)
        self._encoder = self._picture_encoder(run.max_kept_mb)

    @property
    def encodes_once(self) -> bool:
        """Whether requests that share a picture share its encoding."""
        return self._encoder is not None

    def _picture_encoder(self, max_kept_mb: int) -> PictureEncoder | None:
        import torch

        encoder = PictureEncoder(self._model, self._processor, max_kept_mb * 1_000_000)
        with torch.inference_mode(), quiet():
            able = encoder.can_encode([self._render("a"), self._render("is it red?")])
        return encoder if able else None

    def generate(self, requests: Sequence[Request], /) -> list[Result]:
        import torch

        results: list[Result] = []
        with torch.inference_mode(), quiet():
            for batch in self._batches(requests):
                results.extend(self._generate(batch))
        self._render.forget()
        return results

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[_Row]]:
        """Rows of one generation each: similar in length, so that little of a batch is padding."""
        asked: dict[Key, list[Request]] = {}
        images: dict[Key, Image] = {}
        seen: dict[int, Key] = {}
        for request in requests:
            key = seen.setdefault(id(request.image), b"") or picture_key(request.image)
            seen[id(request.image)] = key
            images.setdefault(key, request.image)
            asked.setdefault(key, []).append(request)
        if self._encoder:
            self._encoder.keep_only(asked)
        ordered = sorted(asked, key=lambda key: self._cost(asked[key], images[key]))
        for start in range(0, len(ordered), self._batch_size):
            part = {key: images[key] for key in ordered[start : start + self._batch_size]}
            yield from self._split(self._rows(part, asked))

    def _cost(self, requests: Sequence[Request], image: Image) -> tuple[int, tuple[int, ...]]:
        return max(len(self._render(request.prompt)) for request in requests), image.shape

    def _rows(self, images: Mapping[Key, Image], asked: Mapping[Key, Sequence[Request]]) -> list[_Row]:
        pictures: Mapping[Key, Encoded] = {}
        if self._encoder:
            any_prompt = self._render(asked[next(iter(images))][0].prompt)
            pictures = self._encoder.encode(images, any_prompt)
        return [
            _Row(request, key, self._render(request.prompt), pictures.get(key))
            for key in images
            for request in asked[key]
        ]

    def _split(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Encoded rows apart from the others; for BLIP, whose own `generate` knows no padding, one length."""
        ordered = sorted(rows, key=lambda row: (row.picture is None, len(row)))
        batch: list[_Row] = []
        for row in ordered:
            if batch and (len(batch) == self._batch_size or not self._fit(batch[-1], row)):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _fit(self, one: _Row, other: _Row) -> bool:
        if (one.picture is None) != (other.picture is None):
            return False
        return not self._own_generate or len(one) == len(other)

    @property
    def _own_generate(self) -> bool:
        kind: str = self._model.config.model_type
        return kind.startswith(("blip", "instructblip"))

    def _generate(self, rows: Sequence[_Row]) -> list[Result]:
        inputs = self._plain_inputs(rows) if rows[0].picture is None else self._encoded_inputs(rows)
        mask = inputs["attention_mask"]
        if not bool(mask[:, -1].all()):
            raise GenerationError("the prompts of a batch are padded on the right")
        start = inputs["input_ids"].shape[1] - self._cut
        noise = self._noise(rows)
        tokens = self._model.generate(**inputs, generation_config=self._settings, **self._sampling(noise))
        if noise and not noise.used:
            raise GenerationError(f"{self._config.model} cannot sample: generator.temperature must be 0")
        lengths = (mask.sum(dim=1) - self._cut).tolist()
        return self._results(rows, tokens[:, start:].tolist(), lengths)

    def _plain_inputs(self, rows: Sequence[_Row]) -> dict[str, Any]:
        batch = self._processor(
            images=[to_pil(row.request.image) for row in rows],
            text=[row.prompt.text for row in rows],
            padding=True,
            add_special_tokens=rows[0].prompt.special_tokens,
            return_tensors="pt",
        )
        return dict(batch.to(self._model.device, self._model.dtype))

    def _encoded_inputs(self, rows: Sequence[_Row]) -> dict[str, Any]:
        assert self._encoder
        pictures = [row.picture for row in rows if row.picture]
        tokens = [row.prompt.around(picture.tokens) for row, picture in zip(rows, pictures, strict=True)]
        padded = self._processor.tokenizer.pad({"input_ids": tokens}, return_tensors="pt")
        return {**padded.to(self._model.device), "mm_encoder_outputs": self._encoder.outputs(pictures)}

    def _noise(self, rows: Sequence[_Row]) -> GumbelNoise | None:
        if self._config.temperature == 0:
            return None
        seeds = [row_seed(self._config.seed, row.key, row.request.prompt) for row in rows]
        return GumbelNoise(seeds, self._model.device)

    def _sampling(self, noise: GumbelNoise | None) -> dict[str, Any]:
        if noise is None:
            return {}
        from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

        warpers = [
            TemperatureLogitsWarper(float(self._config.temperature)),
            TopPLogitsWarper(self._config.top_p),
        ]
        return {"logits_processor": LogitsProcessorList([*warpers, noise])}

    def _results(
        self, rows: Sequence[_Row], completions: Sequence[Sequence[int]], prompt_tokens: Sequence[int]
    ) -> list[Result]:
        ends = [_end(completion, self._ends) for completion in completions]
        made = [completion[:end] for completion, (end, _) in zip(completions, ends, strict=True)]
        texts = self._processor.tokenizer.batch_decode(made, skip_special_tokens=True)
        return [
            Result(row.request.id, text.strip(), reason, prompt, end)
            for row, text, prompt, (end, reason) in zip(rows, texts, prompt_tokens, ends, strict=True)
        ]


def _end(completion: Sequence[int], ends: frozenset[int]) -> tuple[int, FinishReason]:
    """How many tokens were generated before the padding, with the one that ends the text."""
    for position, token in enumerate(completion):
        if token in ends:
            return position + 1, FinishReason.STOP
    return len(completion), FinishReason.LENGTH


def _load_processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    try:
        with quiet():
            processor = AutoProcessor.from_pretrained(
                folder, padding_side="left", trust_remote_code=False, local_files_only=True
            )
    except ImportError as error:
        reason = "torchvision" if "torchvision" in str(error).lower() else str(error).strip().splitlines()[0]
        raise ModelLoadError(
            f"{folder} has a processor that needs {reason}, which is not installed"
        ) from error
    except (KeyError, OSError, TypeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelLoadError(f"{folder} has no processor that can be loaded: {first}") from error
    _require_padding(folder, getattr(processor, "tokenizer", None))
    return processor


def _require_padding(folder: Path, tokenizer: Any) -> None:
    """With right padding the answers of a batch are silently wrong."""
    if tokenizer is None:
        raise ModelLoadError(f"{folder} has no processor of images and text, only a part of one")
    if tokenizer.padding_side != "left" or tokenizer.pad_token_id is None:
        raise ModelLoadError(f"{folder} has a tokenizer that cannot pad on the left")


def _require_decoder_only(folder: Path, model: Any) -> None:
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelLoadError(
            f"{folder} is an encoder-decoder ({model.config.model_type}); only decoders generate here"
        )


def _settings(model: Any, tokenizer: Any, config: GeneratorConfig) -> Any:
    """The checkpoint's own settings, with one beam and no sampling of transformers."""
    settings = copy.deepcopy(model.generation_config)
    settings.update(
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        max_length=None,
        max_new_tokens=config.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
    )
    return settings


def _end_tokens(model: Any) -> frozenset[int]:
    if model.config.model_type == "blip":
        return frozenset([model.config.text_config.sep_token_id])
    ends = model.generation_config.eos_token_id
    return frozenset([] if ends is None else [ends] if isinstance(ends, int) else ends)
