"""Requests by their pictures: what is asked about them, so that they are encoded, and fail, once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.base import Image
from stages.batching import Failure
from stages.generators.local.pictures import Key, picture_key
from stages.generators.protocol import FailedRequest, Request, Sampling, Turn

_GREY, _BLANK_SIDE = 127, 64
_BLANK_PROMPT = 200  # letters: a prompt may be too long for the model, but not its beginning


@dataclass(frozen=True)
class Ask:
    """What is asked, whatever the pictures."""

    prompt: str
    turns: tuple[Turn, ...] = ()
    sampling: Sampling | None = None
    schema: str | None = None


@dataclass(frozen=True, eq=False)
class AskedPictures:
    """Pictures that belong together, or none, and the ids of the requests for each thing asked of them."""

    keys: tuple[Key, ...]
    images: tuple[Image, ...]
    asks: dict[Ask, list[int]]

    @property
    def ids(self) -> Iterator[int]:
        return (id for ids in self.asks.values() for id in ids)

    def failed(self, failure: Failure) -> list[FailedRequest]:
        return [FailedRequest(id, failure.status, failure.error) for id in self.ids]

    def apart(self) -> "list[AskedPictures]":
        """The same pictures for everything that is asked about them."""
        return [replace(self, asks={ask: ids}) for ask, ids in self.asks.items()]

    def blank(self) -> "AskedPictures":
        """The beginnings of the same prompts about as many small grey pictures."""
        grey = np.full((_BLANK_SIDE, _BLANK_SIDE, 3), _GREY, np.uint8)
        asks = {
            replace(ask, prompt=ask.prompt[:_BLANK_PROMPT], turns=()): ids for ask, ids in self.asks.items()
        }
        return AskedPictures((picture_key(grey),) * len(self.images), (grey,) * len(self.images), asks)


def by_pictures(requests: Sequence[Request]) -> list[AskedPictures]:
    """Equal pictures are one, wherever they lie in memory. What is asked without any stays apart."""
    found: dict[tuple[Key, ...] | Ask, AskedPictures] = {}
    known: dict[int, Key] = {}  # by object, so that a picture is digested once for all its prompts
    for request in requests:
        for image in request.images:
            if id(image) not in known:
                known[id(image)] = picture_key(image)
        keys = tuple(known[id(image)] for image in request.images)
        ask = Ask(request.prompt, request.turns, request.sampling, request.schema)
        one = found.setdefault(keys or ask, AskedPictures(keys, request.images, {}))
        one.asks.setdefault(ask, []).append(request.id)
    return list(found.values())
