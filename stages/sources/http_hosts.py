"""Turns at hosts: so many requests at a time to each, and none for a while to one that does not answer."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias
from weakref import WeakValueDictionary

from stages.sources.http_faults import Fault

# Else 1,000 objects of a dead host, 8 at a time and each with 4 attempts of 10 s, would take 83 minutes.
_UNANSWERED = 8
_LEFT_ALONE_S = 600.0
_KEPT_HOSTS = 4096

Host: TypeAlias = tuple[str, int]
"""Name and port."""


@dataclass
class _Silence:
    objects: int = 0
    since: float = 0.0


class Hosts:
    """Of one event loop. A waiting request holds nothing that requests to other hosts need."""

    def __init__(self, at_a_time: int) -> None:
        self._at_a_time = at_a_time
        self._slots: WeakValueDictionary[Host, asyncio.Semaphore] = WeakValueDictionary()
        self._silent: dict[Host, _Silence] = {}

    @asynccontextmanager
    async def turn(self, host: Host) -> AsyncIterator[None]:
        """Raises Fault, without a turn, where the last eight objects of the host ended unanswered."""
        slots = self._slots.setdefault(host, asyncio.Semaphore(self._at_a_time))
        async with slots:
            self._require_awake(host)
            try:
                yield
            except Fault as fault:
                self._note(host, answered=not fault.unanswered)
                raise
            else:
                self._note(host, answered=True)

    def _require_awake(self, host: Host) -> None:
        silence = self._silent.get(host)
        if silence is None or silence.objects < _UNANSWERED:
            return
        if time.monotonic() - silence.since < _LEFT_ALONE_S:
            raise Fault(f"not asked for: {_UNANSWERED} objects of this host in a row had no answer")
        del self._silent[host]

    def _note(self, host: Host, answered: bool) -> None:
        silence = self._silent.pop(host, None) or _Silence()
        if answered:
            return
        if len(self._silent) >= _KEPT_HOSTS:
            del self._silent[next(iter(self._silent))]
        self._silent[host] = _Silence(silence.objects + 1, time.monotonic())
