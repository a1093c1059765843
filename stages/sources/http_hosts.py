"""Turns at hosts: so many requests at a time to each, and none for a while to one that does not answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakValueDictionary

from stages.sources.http_faults import Fault

# Else 1,000 objects of a dead host, 8 at a time and each with 4 attempts of 10 s, would take 83 minutes.
_UNANSWERED = 8
_LEFT_ALONE_S = 600.0
_KEPT_HOSTS = 4096


class Host(NamedTuple):
    scheme: str
    name: str
    port: int


@dataclass(eq=False)
class _Silence:
    """`since`: when nothing at all was answered; None before that was tried."""

    objects: int = 0
    since: float | None = None
    trying: asyncio.Lock = field(default_factory=asyncio.Lock)


class Hosts:
    """Of one event loop. A waiting request holds nothing that requests to other hosts need.

    `answers`: whether a host answers anything; asked where eight objects in a row had no answer. That alone
    may be the fault of the objects: neighbours in a list are often neighbours in a folder.
    """

    def __init__(self, at_a_time: int, answers: Callable[[Host], Awaitable[bool]]) -> None:
        self._at_a_time, self._answers = at_a_time, answers
        self._slots: WeakValueDictionary[Host, asyncio.Semaphore] = WeakValueDictionary()
        self._silent: dict[Host, _Silence] = {}

    @asynccontextmanager
    async def turn(self, host: Host) -> AsyncIterator[None]:
        """Raises Fault, without a turn, where the host is known not to answer."""
        slots = self._slots.setdefault(host, asyncio.Semaphore(self._at_a_time))
        async with slots:
            await self._require_awake(host)
            try:
                yield
            except Fault as fault:
                self._note(host, answered=not fault.unanswered)
                raise
            else:
                self._note(host, answered=True)

    async def _require_awake(self, host: Host) -> None:
        silence = self._silent.get(host)
        if silence is None or silence.objects < _UNANSWERED:
            return
        async with silence.trying:
            if self._silent.get(host) is not silence:
                return
            if silence.since is None and not await self._answers(host):
                silence.since = time.monotonic()
            if silence.since is None or time.monotonic() - silence.since > _LEFT_ALONE_S:
                del self._silent[host]
                return
        raise Fault(
            f"not asked for: the host answered none of {_UNANSWERED} others in a row, nor anything else"
        )

    def _note(self, host: Host, answered: bool) -> None:
        silence = self._silent.pop(host, None) or _Silence()
        if answered:
            return
        if len(self._silent) >= _KEPT_HOSTS:
            del self._silent[next(iter(self._silent))]
        silence.objects += 1
        self._silent[host] = silence
