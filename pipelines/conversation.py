"""A conversation with a generator about some pictures: what was said so far, and the next answer."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from pipelines.config import ConfigError
from pipelines.jobs import Decoding
from pipelines.text_jobs import ChatConfig, files_of
from stages.base import Image, unpack_views
from stages.decode import DecodeImages
from stages.generators.backends import generator_needs, generator_view, load_generator
from stages.generators.checks.faults import fault_of
from stages.generators.protocol import (
    FailedRequest,
    FinishReason,
    GenerationError,
    Request,
    Result,
    Streams,
    Turn,
    generate_matched,
)
from stages.resize import ResizeConfig
from stages.schemas import Status

_QUESTION = "{question}"


class PictureError(RuntimeError):
    """A file that is no picture, or cannot be read. The message is one line."""


class Conversation:
    """Its turns reuse what the model made of the pictures, where the backend keeps that.

    Raises: PictureError; ModelLoadError; ConfigError for a generator that reads no pictures.
    """

    def __init__(self, config: ChatConfig) -> None:
        self._what, self._decoding = config.answering.what, config.decode
        if needs := generator_needs(self._what.generator):
            told = " and ".join(needs)
            raise ConfigError(f"captioner reads no pictures but their {told} of a corpus: it cannot chat")
        self._view = generator_view(self._what.generator)
        self._images = read_pictures(files_of(config.image), self._decoding, self._view)
        self._generator = load_generator(self._what.generator, config.answering.how)
        self._turns: list[Turn] = []
        self.fault: str | None = None
        self.thinking: str | None = None

    def show(self, images: str) -> None:
        """Other pictures, and nothing said about them. Raises: PictureError, and then all is as before."""
        self._images = read_pictures(files_of(images), self._decoding, self._view)
        self.reset()

    def reset(self) -> None:
        self._turns = []

    def caption(self) -> Generator[str]:
        """The caption that a night would make: it sees no turns, and is none. Raises: GenerationError."""
        return self._asked(Request(0, tuple(self._images), self._what.prompt))

    def question(self, text: str) -> Generator[str]:
        """The parts of an answer, as they come. Closed early, what came so far is what was answered.

        After the last part `fault` says what a night would find wrong with it, and `thinking` what came
        before it, where the backend tells. Raises: GenerationError.
        """
        prompt, said = self._what.answer_prompt.replace(_QUESTION, text), []
        request = Request(0, tuple(self._images), prompt, tuple(self._turns))
        try:
            for part in self._asked(request):
                said.append(part)
                yield part
        finally:
            if answer := "".join(said).strip():
                self._turns.append(Turn(prompt, answer))

    def _asked(self, request: Request) -> Generator[str]:
        self.fault, self.thinking, said = None, None, []
        for part in self._parts(request):
            said.append(part)
            yield part
        self.fault = self._fault(request, "".join(said))

    def _parts(self, request: Request) -> Iterator[str]:
        if isinstance(self._generator, Streams):
            yield from self._generator.stream(request)
            return
        (result,) = generate_matched(self._generator, [request])
        if isinstance(result, FailedRequest):
            raise GenerationError(f"{result.status.value}: {result.error}")
        self.thinking = result.thinking
        yield result.text

    def _fault(self, request: Request, text: str) -> str | None:
        found = fault_of(
            request, Result(0, text, FinishReason.STOP, None, None, self.thinking), self._what.checks
        )
        return f"{found[0].value}: {found[1]}" if found else None


def read_pictures(files: Sequence[str], decoding: Decoding, view: ResizeConfig) -> list[Image]:
    """Pictures as a night hands them to the model: uint8 [H, W, 3] each. Raises: PictureError."""
    rows = pa.table(
        {
            "image_id": pa.array(range(len(files)), pa.int64()),
            "uri": pa.array(files, pa.string()),
            "bytes": pa.array([_bytes(file) for file in files], pa.large_binary()),
            "status": pa.array([Status.OK.value] * len(files), pa.string()),
            "error": pa.nulls(len(files), pa.string()),
        }
    )
    decoded = DecodeImages(decoding.what, decoding.how, {"picture": view})(rows)
    images = []
    for file, image, error in zip(
        files, unpack_views(decoded, "picture"), decoded["error"].to_pylist(), strict=True
    ):
        if image is None:
            raise PictureError(f"{file} cannot be shown: {error}")
        images.append(image)
    return images


def _bytes(file: str) -> bytes:
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise PictureError(f"{file} cannot be read: {error.strerror}") from error
