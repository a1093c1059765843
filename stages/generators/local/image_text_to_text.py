"""Text about pictures, by any model that `AutoModelForImageTextToText` of transformers loads."""

import functools
import inspect
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stages.base import Image
from stages.batching import Batches, Failure, OnOom
from stages.checkpoints import Device, ModelLoadError, quiet, resolve
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local import prefix
from stages.generators.local.asked import Ask, AskedPictures, by_pictures
from stages.generators.local.decoding import Decoder
from stages.generators.local.loading import load_model
from stages.generators.local.pictures import Encoded, Key, PictureEncoder, to_pil
from stages.generators.local.prompts import Prompt, PromptRenderer
from stages.generators.local.rows import Room, Row, by_start
from stages.generators.local.streaming import stream_text
from stages.generators.local.useful_side import useful_side
from stages.generators.protocol import FailedRequest, GenerationError, Request, Result
from stages.resize import Policy, ResizeConfig


def picture_view(config: GeneratorConfig) -> ResizeConfig:
    """The view whose pictures the model's own processor is given, without loading the model.

    Raises: ModelLoadError.
    """
    side = config.max_side or useful_side(resolve(config.model, config.revision))
    return ResizeConfig(policy=Policy.FIT, size=side)


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
        self._decoder = Decoder(self._loaded, config)
        with torch.inference_mode(), quiet():
            self._encoder = PictureEncoder(self._loaded, self._render, run.max_kept_mb * 1_000_000)
        self._shares = self._encoder.encodes and prefix.can_read(self._model)
        self._picture_tokens = 0  # of a picture that is not encoded: the most so far
        self._batches = Batches[AskedPictures, list[Result]](
            run.batch_size,
            self._answer,
            AskedPictures.blank,
            self._answer_on_cpu if run.on_oom is OnOom.CPU else None,
            self._encoder.forget,
            fatal=(GenerationError, ModelLoadError),
        )

    @property
    def encodes_once(self) -> bool:
        """Whether requests that share a picture share its encoding."""
        return self._encoder.encodes

    @property
    def notes(self) -> Sequence[str]:
        return self._batches.notes

    def generate(self, requests: Sequence[Request], /) -> list[Result | FailedRequest]:
        import torch

        self._require_possible(requests)
        with torch.inference_mode(), quiet():
            asked = sorted(by_pictures(requests), key=self._cost)
            self._encoder.want(key for one in asked for key in one.keys)
            results = [result for some in self._outcomes(asked) for result in some]
        self._render.forget()
        return results

    def _outcomes(self, asked: Sequence[AskedPictures]) -> Iterator[Sequence[Result | FailedRequest]]:
        """Where the model fails on pictures, it may be one prompt about them that is to blame."""
        for one, outcome in zip(asked, self._batches.run(asked), strict=True):
            if not isinstance(outcome, Failure):
                yield outcome
            elif len(one.asks) > 1:
                yield from self._outcomes(one.apart())
            else:
                yield one.failed(outcome)

    def stream(self, request: Request, /) -> Generator[str, None, None]:
        """Parts of the text that `generate` gives; the pictures of earlier calls are not encoded again."""
        self._require_possible([request])
        return stream_text(self._processor.tokenizer, functools.partial(self._write_one, request))

    def _write_one(self, request: Request, **options: Any) -> None:
        import torch

        with torch.inference_mode(), quiet():
            asked = by_pictures([request])
            self._encoder.want(asked[0].keys)
            rows = self._rows(asked, limit=1)
            self._decoder.write(rows, self._inputs(rows), **options)

    def _require_possible(self, requests: Sequence[Request]) -> None:
        """Raises: GenerationError for what is asked of the wrong model, whatever the pictures."""
        needed = inspect.signature(self._model.generate).parameters.get("pixel_values")
        blind = needed is None or needed.default is not inspect.Parameter.empty
        most = self._loaded.pictures
        images = [image for one in requests for image in one.images]
        faults = {
            # Processors scale floats from 0 to 1 once more, in silence.
            "takes uint8 pictures of RGB only": any(_is_odd(image) for image in images),
            "takes no text without a picture": not blind and any(not one.images for one in requests),
            "has no chat template, so it takes no earlier turns": (
                not self._loaded.chats and any(one.turns for one in requests)
            ),
            f"takes {most} picture a prompt": most is not None
            and any(len(one.images) > most for one in requests),
            "begins texts with a token of its own, so they follow no schema": (
                self._loaded.settings.forced_bos_token_id is not None
                and any(one.schema is not None for one in requests)
            ),
        }
        for fault, found in faults.items():
            if found:
                raise GenerationError(f"{self._config.model} {fault}")

    def _prompt(self, ask: Ask, asked: AskedPictures) -> Prompt:
        return self._render(ask.prompt, ask.turns, len(asked.images))

    def _cost(self, asked: AskedPictures) -> tuple[int, int, tuple[int, ...]]:
        """By which pictures and prompts of similar size come together."""
        longest = max(len(self._prompt(ask, asked)) for ask in asked.asks)
        return len(asked.images), longest, asked.images[0].shape if asked.images else ()

    def _answer(self, asked: Sequence[AskedPictures], limit: int) -> list[list[Result]]:
        """For each the results of all that is asked; `limit` rows a batch at most."""
        made = {result.id: result for result in self._generate_rows(self._rows(asked, limit), limit)}
        return [[made[id] for id in one.ids] for one in asked]

    def _rows(self, asked: Sequence[AskedPictures], limit: int) -> list[Row]:
        encoded = self._encode(asked, limit)
        return [
            Row(ids, one, ask, self._prompt(ask, one), self._encoded(one, encoded))
            for one in asked
            for ask, ids in one.asks.items()
        ]

    def _encode(self, asked: Sequence[AskedPictures], limit: int) -> Mapping[Key, Encoded]:
        able = [one for one in asked if self._encoder.takes(len(one.keys))]
        images = {key: image for one in able for key, image in zip(one.keys, one.images, strict=True)}
        return self._encoder.encode(images, limit)

    def _encoded(self, asked: AskedPictures, known: Mapping[Key, Encoded]) -> tuple[Encoded, ...] | None:
        """None unless all of the pictures are encoded; those of a text without any are."""
        found = [known[key] for key in asked.keys if key in known and self._encoder.takes(len(asked.keys))]
        return tuple(found) if len(found) == len(asked.keys) else None

    def _answer_on_cpu(self, asked: Sequence[AskedPictures], limit: int) -> list[list[Result]]:
        return self._on_cpu._answer(asked, limit)

    @functools.cached_property
    def _on_cpu(self) -> "ImageTextToText":
        """The same weights on the CPU, loaded by the first picture that comes, and kept."""
        if self._model.device.type == "cpu":
            return self
        run = replace(self._run, device=Device.CPU, max_kept_mb=0, on_oom=OnOom.ROW)
        return ImageTextToText(self._config, run)

    def _generate_rows(self, rows: Sequence[Row], limit: int) -> Iterator[Result]:
        room = Room(limit, self._run.batch_tokens, self._config.max_new_tokens)
        groups = by_start(rows)
        shared = [group for group in groups if len(group) > 1] if self._shares else []
        for some in room.cut(shared, lambda group: ((), max(row.size(0) for row in group))):
            yield from self._generate_shared(some, room)
        taken = {id(row) for group in shared for row in group}
        for batch in room.cut((row for row in rows if id(row) not in taken), self._measure):
            yield from self._decoder.write(batch, self._inputs(batch))

    def _measure(self, row: Row) -> tuple[tuple[int, ...], int]:
        plain, size = row.pictures is None, row.size(self._picture_tokens)
        return (plain, plain and len(row.asked.images), 0 if self._loaded.pads else size), size

    def _generate_shared(self, groups: Sequence[Sequence[Row]], room: Room) -> Iterator[Result]:
        """Prompts that begin alike: what they begin with is read once for each group."""
        starts = [group[0] for group in groups]
        known = prefix.read(self._model, self._encoded_inputs(starts, [row.start for row in starts]))
        self._shares = known is not None
        place = {id(row): number for number, group in enumerate(groups) for row in group}
        for batch in room.cut((row for group in groups for row in group), self._measure):
            if known is None:
                inputs = self._inputs(batch)
            else:
                rests = self._padded([row.rest for row in batch])
                inputs = known.continued([place[id(row)] for row in batch], rests)
            yield from self._decoder.write(batch, inputs)

    def _inputs(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What `generate` takes for prompts of one kind."""
        if rows[0].pictures is None:
            return self._plain_inputs(rows)
        return self._encoded_inputs(rows, [[*row.start, *row.rest] for row in rows])

    def _plain_inputs(self, rows: Sequence[Row]) -> dict[str, Any]:
        batch = self._processor(
            images=[[to_pil(image) for image in row.asked.images] for row in rows],
            text=[row.prompt.text for row in rows],
            padding=True,
            add_special_tokens=rows[0].prompt.special_tokens,
            return_tensors="pt",
        )
        longest = max(len(row.prompt) for row in rows)
        pictures = (batch["input_ids"].shape[1] - longest) // len(rows[0].asked.images)
        self._picture_tokens = max(self._picture_tokens, pictures)
        return dict(batch.to(self._model.device, self._model.dtype))

    def _encoded_inputs(self, rows: Sequence[Row], tokens: Sequence[Sequence[int]]) -> dict[str, Any]:
        pictures = [picture for row in rows for picture in row.pictures or ()]
        padded = self._padded(tokens)
        return {**padded, **(self._encoder.outputs(pictures, padded["input_ids"]) if pictures else {})}

    def _padded(self, tokens: Sequence[Sequence[int]]) -> dict[str, Any]:
        padded = self._processor.tokenizer.pad(
            {"input_ids": [list(row) for row in tokens]}, return_tensors="pt"
        )
        return dict(padded.to(self._model.device))


def _is_odd(image: Image) -> bool:
    return image.dtype != "uint8" or image.ndim != 3 or image.shape[2] != 3
