"""Connections that are made to checked addresses only."""

import asyncio
import concurrent.futures
import errno
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import httpcore2

from stages.sources.http_addresses import is_public
from stages.sources.http_faults import Fault

_PRIVATE = "the address of the host is not a public one, and source.allow_private=false"
_KEPT_S = 60.0  # a name is looked up once a minute, not once a connection
_KEPT_NAMES = 4096
_ADDRESSES = 4  # of a host that are tried
_OWN = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}  # this machine's troubles, not the host's

Resolve: TypeAlias = Callable[..., Sequence[tuple[Any, ...]]]
"""As socket.getaddrinfo."""
Connect: TypeAlias = Callable[..., Awaitable[httpcore2.AsyncNetworkStream]]
"""As httpcore2.AsyncNetworkBackend.connect_tcp, of a numeric address."""


@dataclass(frozen=True)
class Edge:
    """Where this process ends and the network begins. `tls`: None: the system's authorities."""

    resolve: Resolve = socket.getaddrinfo
    connect: Connect = httpcore2.AnyIOBackend().connect_tcp
    tls: ssl.SSLContext | None = None


class CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """Looks a name up, checks its addresses, and connects to one that was checked: it is not looked up again,
    so a name that means another address a moment later leads nowhere else.
    """

    def __init__(self, edge: Edge, allow_private: bool) -> None:
        self._names, self._connect = _Names(edge.resolve), edge.connect
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises: Fault for a name without an address that may be used; errors of httpcore2; OSError."""
        ends = time.monotonic() + (timeout or 0)
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._names.addresses(host)
        except TimeoutError:
            raise httpcore2.ConnectTimeout from None
        allowed = [one for one in addresses if self._allow_private or is_public(one)][:_ADDRESSES]
        failure: Exception = Fault(_PRIVATE)
        for number, address in enumerate(allowed):
            left = max(ends - time.monotonic(), 0.001) / (len(allowed) - number) if timeout else None
            try:
                return await self._connect(address, port, left, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                _require_others_fault(error)
                failure = error
        raise failure


class _Known(NamedTuple):
    addresses: "asyncio.Future[list[str] | Fault]"
    asked_at: float


class _Names:
    """Numeric addresses of names; those of many requests at a time are looked up once."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._known: dict[str, _Known] = {}

    async def addresses(self, host: str) -> list[str]:
        """Raises Fault."""
        known = self._known.get(host)
        if known is None or known.asked_at + _KEPT_S < time.monotonic():
            self._known.pop(host, None)
            if len(self._known) >= _KEPT_NAMES:
                del self._known[next(iter(self._known))]
            known = self._known[host] = _Known(self._look_up(host), time.monotonic())
        found = await asyncio.shield(known.addresses)
        if isinstance(found, Fault):
            if self._known.get(host) is known:
                del self._known[host]
            raise found
        return found

    def _look_up(self, host: str) -> "asyncio.Future[list[str] | Fault]":
        # A pool's threads are waited for where the interpreter ends, and a lookup can take half a minute.
        found: concurrent.futures.Future[list[str] | Fault] = concurrent.futures.Future()
        arguments = (self._resolve, host, found)
        threading.Thread(target=_resolve, args=arguments, name=f"address of {host}", daemon=True).start()
        return asyncio.wrap_future(found)


def _resolve(resolve: Resolve, host: str, found: "concurrent.futures.Future[list[str] | Fault]") -> None:
    found.set_result(_addresses(resolve, host))


def _addresses(resolve: Resolve, host: str) -> list[str] | Fault:
    try:
        entries = resolve(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_AGAIN, socket.EAI_FAIL):
            return Fault("the name of the host cannot be looked up", passing=True, unanswered=True)
        return Fault("the name of the host is not known", unanswered=True)
    except (OSError, ValueError):  # ValueError: no name at all, such as one with an empty part
        return Fault("the name of the host is not known", unanswered=True)
    return list(dict.fromkeys(entry[4][0] for entry in entries))


def _require_others_fault(error: Exception) -> None:
    """Raises OSError where this machine has no more files or memory to connect with."""
    cause: BaseException | None = error.args[0] if error.args else None
    while isinstance(cause, BaseException):
        if isinstance(cause, OSError) and cause.errno in _OWN:
            raise OSError(cause.errno, f"no further connection can be made: {cause.strerror}") from error
        cause = cause.__cause__
