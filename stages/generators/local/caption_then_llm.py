"""A captioner describes, a text model answers from what it says: DeepSeek-R1's way to pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from stages.base import Image
from stages.checkpoints import resolve, weights_digest
from stages.generators.config import Backend, GeneratorConfig, GeneratorRun, ReasonerConfig
from stages.generators.fencing import File, described, file_prompt
from stages.generators.local.pictures import Key, picture_key
from stages.generators.local.text_model import TextModel
from stages.generators.protocol import (
    FailedRequest,
    Generator,
    Request,
    Result,
    clean,
    generate_matched,
)
from stages.schemas import Status


def captioner_config(config: GeneratorConfig) -> GeneratorConfig:
    """The model that looks at the pictures."""
    return replace(config, backend=Backend.TRANSFORMERS, reasoner=None)


def _reasoner(config: GeneratorConfig) -> ReasonerConfig:
    assert config.reasoner  # the config requires it of this backend
    return config.reasoner


def reasoner_config(config: GeneratorConfig) -> GeneratorConfig:
    """The model that answers; the seed of its sampling is the generator's."""
    settings = asdict(_reasoner(config))
    del settings["caption_prompt"]
    return GeneratorConfig(**settings, seed=config.seed)


def identity(config: GeneratorConfig) -> dict[str, Any]:
    """The settings of both models, and the digests of their weights. Raises: ModelLoadError."""
    settings, reasoner = asdict(config), asdict(_reasoner(config))
    found = {"weights": weights_digest(resolve(config.model, config.revision))}
    reasoner["weights"] = weights_digest(resolve(reasoner["model"], reasoner["revision"]))
    for section in (settings, reasoner):
        del section["model"], section["revision"]
    return {**settings, "reasoner": reasoner, **found}


class CaptionThenLlm:
    """A `Generator` of two: each picture is captioned once, whatever is asked of it.

    A request's own `caption`, where it has one, is taken instead, for all its pictures; its `tags` and `ocr`
    are added. All of it is data: it goes into the prompt as files of DeepSeek's template, fenced. Tokens and
    log-probabilities are those of the answering model; the latency is that of caption and answer together.
    """

    def __init__(self, config: GeneratorConfig, run: GeneratorRun, captioner: Generator) -> None:
        """`captioner` is the generator of `captioner_config(config)`. Raises: ModelLoadError."""
        self._caption_prompt = _reasoner(config).caption_prompt
        self._captioner, self._texts = captioner, TextModel(reasoner_config(config), run)
        self._captions: dict[Key, Result | FailedRequest] = {}
        self._keys: dict[int, Key] = {}  # by object, so that a picture is digested once for all its prompts

    @property
    def notes(self) -> Sequence[str]:
        return (*self._captioner.notes, *self._texts.notes)

    def generate(self, requests: Sequence[Request], /) -> list[Result | FailedRequest]:
        self._caption([image for request in requests for image in _undescribed(request)])
        told = {request.id: self._told(request) for request in requests}
        lost = [one for one in told.values() if isinstance(one, FailedRequest)]
        seen = {id: one for id, one in told.items() if not isinstance(one, FailedRequest)}
        asked = [self._asked(one, seen[one.id]) for one in requests if one.id in seen]
        return [*lost, *(_with_captions(one, seen[one.id]) for one in self._texts.generate(asked))]

    def _caption(self, images: Sequence[Image]) -> None:
        """Captions these pictures, and keeps their captions only: further questions come about the same."""
        self._keys = {id(image): picture_key(image) for image in {id(one): one for one in images}.values()}
        wanted = {self._keys[id(image)]: image for image in images}
        kept = {key: self._captions[key] for key in wanted if key in self._captions}
        fresh = [key for key in wanted if key not in kept]
        made = generate_matched(
            self._captioner,
            [Request(number, (wanted[key],), self._caption_prompt) for number, key in enumerate(fresh)],
        )
        self._captions = kept | dict(zip(fresh, made, strict=True))

    def _told(self, request: Request) -> list[Result] | FailedRequest:
        """The captions that the request needs."""
        captions = [self._captions[self._keys[id(image)]] for image in _undescribed(request)]
        for caption in captions:
            if isinstance(caption, FailedRequest):
                return FailedRequest(request.id, caption.status, f"captioning it: {caption.error}")
            if not clean(caption.text):
                return FailedRequest(request.id, Status.NO_TEXT, "the captioner wrote nothing about it")
        return [caption for caption in captions if isinstance(caption, Result)]

    def _asked(self, request: Request, captions: Sequence[Result]) -> Request:
        """The request as text; the files stand where the pictures stood, before the first prompt."""
        files = files_of(request.known, [clean(caption.text) for caption in captions])
        marks = self._texts.marks
        if not request.turns:
            return replace(request, images=(), prompt=file_prompt(files, request.prompt, marks))
        first, *later = request.turns
        opening = replace(first, prompt=file_prompt(files, first.prompt, marks))
        return replace(request, images=(), turns=(opening, *later))


def _undescribed(request: Request) -> tuple[Image, ...]:
    """The pictures that a caption must be made of: a known one tells of all of them."""
    return () if request.known.get("caption", "").strip() else request.images


def files_of(known: Mapping[str, str], captions: Sequence[str]) -> list[File]:
    """A file a picture; what else is known of them goes to the first."""
    others = {key: text for key, text in known.items() if key != "caption"}
    match captions:
        case []:
            text = described(known)
            return [File("image", text)] if text else []
        case [caption]:
            return [File("image", described({**others, "caption": caption}))]
    texts = [described({**others, "caption": captions[0]}), *captions[1:]]
    return [File(f"image {number}", text) for number, text in enumerate(texts, start=1)]


def _with_captions(result: Result | FailedRequest, captions: Sequence[Result]) -> Result | FailedRequest:
    """What the captions took is part of how long the answer took."""
    if isinstance(result, FailedRequest) or result.latency_s is None:
        return result
    return replace(result, latency_s=result.latency_s + sum(one.latency_s or 0.0 for one in captions))
