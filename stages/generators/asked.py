"""Requests by picture: what is asked about each, so that it is encoded, and fails, once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.base import Image
from stages.batching import Failure
from stages.generators.pictures import Key, picture_key
from stages.generators.protocol import FailedRequest, Request

_GREY, _BLANK_SIDE = 127, 64


@dataclass(frozen=True, eq=False)
class AskedPicture:
    """A picture, the distinct prompts about it, and for each the ids of the requests that ask it."""

    key: Key
    image: Image
    prompts: Mapping[str, Sequence[int]]

    @property
    def ids(self) -> Iterator[int]:
        return (id for ids in self.prompts.values() for id in ids)

    def failed(self, failure: Failure) -> list[FailedRequest]:
        return [FailedRequest(id, failure.status, failure.error) for id in self.ids]

    def blank(self) -> "AskedPicture":
        """The same prompts about a small grey picture."""
        grey = np.full((_BLANK_SIDE, _BLANK_SIDE, 3), _GREY, np.uint8)
        return replace(self, key=picture_key(grey), image=grey)


def by_picture(requests: Sequence[Request]) -> list[AskedPicture]:
    """Equal pictures are one, wherever they lie in memory."""
    images: dict[Key, Image] = {}
    prompts: dict[Key, dict[str, list[int]]] = {}
    keys: dict[int, Key] = {}  # by object, so that a picture is digested once for all its prompts
    for request in requests:
        (image,) = request.images
        if id(image) not in keys:
            keys[id(image)] = picture_key(image)
        key = keys[id(image)]
        images.setdefault(key, image)
        prompts.setdefault(key, {}).setdefault(request.prompt, []).append(request.id)
    return [AskedPicture(key, image, prompts[key]) for key, image in images.items()]
