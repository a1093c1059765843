"""The bytes of an answer, never more than are allowed."""

import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

import httpcore2

from stages.sources.http_faults import Fault

_ANY_HEADER = zlib.MAX_WBITS | 32  # of gzip or of zlib, whichever is there
_ZLIB = frozenset({"gzip", "x-gzip", "deflate"})
_UNREAD = frozenset({"br", "zstd", "compress", "x-compress"})


class TooLarge(Exception):
    """More bytes than are allowed."""


async def body_of(response: httpcore2.Response, limit: int) -> bytes:
    """The body, decompressed where the server compresses although it is asked not to.

    Holds at most `limit` bytes and one more part of the network's, 64 kB. Raises: TooLarge, Fault; errors of
    httpcore2 for a body that breaks off.
    """
    length = header(response, b"content-length")
    if length.isdecimal() and int(length) > limit:
        raise TooLarge
    data = bytearray()
    async with aclosing(_decoded(response, limit)) as parts:
        async for part in parts:
            data += part
            if len(data) > limit:
                raise TooLarge
    return bytes(data)


def header(response: httpcore2.Response, name: bytes) -> str:
    """A header's first value, or an empty text."""
    for key, value in response.headers:
        if key.lower() == name:
            return value.decode("utf-8", "replace").strip()
    return ""


async def skip(response: httpcore2.Response, limit: int) -> None:
    """Reads a short body to its end, so that the connection can be used again."""
    size = 0
    async with aclosing(_stream(response)) as parts:
        async for part in parts:
            size += len(part)
            if size > limit:
                return


def _stream(response: httpcore2.Response) -> AsyncGenerator[bytes]:
    return cast(AsyncGenerator[bytes], cast(AsyncIterator[bytes], response.stream).__aiter__())


async def _decoded(response: httpcore2.Response, limit: int) -> AsyncGenerator[bytes]:
    # Other values are no encodings (`binary`, `utf-8`), and the bytes are what they are.
    encoding = header(response, b"content-encoding").lower()
    if encoding in _UNREAD or "," in encoding:
        raise Fault("the server compresses in a way that is not read here")
    decoder = zlib.decompressobj(_ANY_HEADER) if encoding in _ZLIB else None
    async with aclosing(_stream(response)) as parts:
        async for part in parts:
            yield _inflated(decoder, part, limit) if decoder else part
    if decoder and not decoder.eof:
        raise Fault("the compressed body breaks off", passing=True)


def _inflated(decoder: "zlib._Decompress", part: bytes, limit: int) -> bytes:
    try:
        data = decoder.decompress(part, limit + 1)
    except zlib.error:
        raise Fault("the body is not compressed as the server says") from None
    if decoder.unconsumed_tail:
        raise TooLarge
    return data
