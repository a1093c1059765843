"""One caption for every picture."""

from dataclasses import dataclass, field

import pyarrow as pa

from stages.base import unpack_views, with_notes
from stages.generators.asking import ask, retried
from stages.generators.backends import generator_view, load_generator
from stages.generators.checks.faults import ChecksConfig
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.known import captions_of, embeddings_of
from stages.generators.protocol import Generator, Request
from stages.generators.records import failed, recorded
from stages.resize import ResizeConfig
from stages.schemas import CAPTION_COLUMN

VERSION = 3
"""Part of the fingerprint: raised whenever the same config gives other captions."""


@dataclass(frozen=True)
class CaptionConfig:
    """What a caption is: everything here changes its text."""

    generator: GeneratorConfig
    prompt: str = "describe the image."
    answer_prompt: str = "{question}"  # the same model's prompt for a question
    checks: ChecksConfig = field(default_factory=ChecksConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", self.prompt.strip())


def caption_view(config: CaptionConfig) -> ResizeConfig:
    """The view that the captioner reads, without loading the model. Raises: ModelLoadError."""
    return generator_view(config.generator)


class CaptionImages:
    """(rows with the view of `caption_view`, `status`, `error`) -> the same rows + `caption`.

    Models that are given something else than pixels read that too: `text:caption` (string), `embedding`.
    `caption` is a CAPTION_COLUMN struct in every row. Its text is null where the view is null, and the status
    then is the item's, and where the model fails on the picture. A text that the checks find fault with stays
    beside its status. Raises: ModelLoadError; GenerationError, and what the model raises, if on any picture.
    """

    def __init__(self, config: CaptionConfig, run: GeneratorRun, view: str) -> None:
        self._generator: Generator = load_generator(config.generator, run)
        self._prompt, self._checks, self._view = config.prompt, config.checks, view

    def __call__(self, shard: pa.Table) -> pa.Table:
        images = unpack_views(shard, self._view)
        beside = zip(images, captions_of(shard), embeddings_of(shard), strict=True)
        requests = [
            Request(row, (image,), self._prompt, known=known, embedding=vector)
            for row, (image, known, vector) in enumerate(beside)
            if image is not None
        ]
        outcomes = ask(self._generator, requests, self._checks)
        found = {request.id: outcome for request, outcome in zip(requests, outcomes, strict=True)}
        items = zip(shard.column("status").to_pylist(), shard.column("error").to_pylist(), strict=True)
        captions = [
            recorded(found[row], "caption") if row in found else failed(status, error)
            for row, (status, error) in enumerate(items)
        ]
        made = shard.append_column("caption", pa.array(captions, CAPTION_COLUMN))
        return with_notes(made, [*self._generator.notes, *retried(outcomes)])
