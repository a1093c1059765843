"""How often a server may be asked, and for how many tokens: one account for all workers of a run."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from stages.generators.config import ServerRun
from stages.generators.protocol import GenerationError

_ASK_AGAIN_S = 0.1


class BudgetSpent(GenerationError):
    """The run has used what it may use. The message says how much that was."""


@dataclass(frozen=True)
class Usage:
    """Tokens that a request took."""

    prompt: int
    completion: int

    @property
    def total(self) -> int:
        return self.prompt + self.completion


@dataclass(frozen=True)
class Grant:
    """Leave to send the `number`-th request, `wait_s` seconds from now. `tokens`: what it counts for.

    `number` None: none yet. Whether the budget has room depends on requests under way: ask again then.
    """

    wait_s: float
    tokens: int = 0
    number: int | None = None


class Limiter(Protocol):
    """What a worker asks before and after each request."""

    def reserve(self, server: ServerRun, guess: Usage) -> Grant:
        """Raises: BudgetSpent."""
        ...

    def settle(self, server: ServerRun, grant: Grant, used: Usage) -> None:
        """What a granted request took; `Usage(0, 0)` for one that the server refused."""
        ...

    def pause(self, server: ServerRun, seconds: float) -> None:
        """Nothing is sent for so long: the server asked for it."""
        ...


class Ledger:
    """The account of one run with one server. Any thread may use it.

    Requests and tokens are spread evenly over time, so that no window of any length holds more than the
    limits allow, but for the error of guesses: a request counts for what requests took so far on average, and
    is corrected once it has ended. The budget counts what is under way likewise.
    """

    def __init__(self, server: ServerRun) -> None:
        self._server, self._lock = server, threading.Lock()
        self._request_at = self._token_at = self._open_at = 0.0  # of `time.monotonic`
        self._under_way: dict[int, float] = {}  # and until when at most: a worker may die of a request
        self._granted = self._requests = 0
        self._spent = Usage(0, 0)

    def reserve(self, guess: Usage) -> Grant:
        with self._lock:
            now, expected = time.monotonic(), self._expected(guess)
            self._under_way = {number: end for number, end in self._under_way.items() if end > now}
            if not self._has_room(expected):
                return Grant(_ASK_AGAIN_S)
            start = max(now, self._request_at, self._token_at, self._open_at)
            if self._server.requests_per_s:
                self._request_at = start + 1 / self._server.requests_per_s
            self._token_at = start + self._token_seconds(expected.total)
            self._granted += 1
            self._under_way[self._granted] = start + self._server.deadline_s
            return Grant(start - now, expected.total, self._granted)

    def settle(self, grant: Grant, used: Usage) -> None:
        with self._lock:
            if grant.number is not None:
                self._under_way.pop(grant.number, None)
            self._token_at += self._token_seconds(used.total - grant.tokens)
            if used.total:
                self._requests += 1
                self._spent = Usage(
                    self._spent.prompt + used.prompt, self._spent.completion + used.completion
                )

    def pause(self, seconds: float) -> None:
        with self._lock:
            self._open_at = max(self._open_at, time.monotonic() + seconds)

    def _token_seconds(self, tokens: int) -> float:
        return tokens * 60 / self._server.tokens_per_minute if self._server.tokens_per_minute else 0.0

    def _expected(self, guess: Usage) -> Usage:
        if not self._requests:
            return guess
        return Usage(-(-self._spent.prompt // self._requests), -(-self._spent.completion // self._requests))

    def _has_room(self, expected: Usage) -> bool:
        """Whether one more request fits into the budget, those under way included.

        The first goes alone, whatever the guess: then it is known what a request takes. Raises: BudgetSpent
        once none is under way any more, so that nothing is thrown away that was paid for.
        """
        under_way = len(self._under_way)
        if not self._requests and not under_way:
            return True
        if self._exceeded(under_way + 1, expected) is None:
            return True
        if under_way:
            return False
        raise BudgetSpent(self._told(expected))

    def _exceeded(self, more: int, expected: Usage) -> str | None:
        """The key of the budget that so many more requests would exceed."""
        prompt = self._spent.prompt + more * expected.prompt
        completion = self._spent.completion + more * expected.completion
        tokens, cost = self._server.max_tokens_total, self._server.max_cost
        if tokens is not None and prompt + completion > tokens:
            return "max_tokens_total"
        return "max_cost" if cost is not None and self._cost(Usage(prompt, completion)) > cost else None

    def _cost(self, used: Usage) -> float:
        prices = self._server.prompt_price or 0.0, self._server.completion_price or 0.0
        return (used.prompt * prices[0] + used.completion * prices[1]) / 1e6

    def _told(self, expected: Usage) -> str:
        key = self._exceeded(1, expected)
        assert key
        cost = f", cost {self._cost(self._spent):.4g}" if self._server.prompt_price is not None else ""
        return (
            f"the budget of this run, server.{key}={getattr(self._server, key):,.12g}, is spent: "
            f"{self._requests:,} requests took {self._spent.total:,} tokens{cost}, and one more takes about "
            f"{expected.total:,}; finished shards are kept, the same command goes on with a fresh budget"
        )


class Ledgers:
    """The accounts of one run, one for each server that it asks: a `Limiter` in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ledgers: dict[ServerRun, Ledger] = {}

    def reserve(self, server: ServerRun, guess: Usage) -> Grant:
        return self._of(server).reserve(guess)

    def settle(self, server: ServerRun, grant: Grant, used: Usage) -> None:
        self._of(server).settle(grant, used)

    def pause(self, server: ServerRun, seconds: float) -> None:
        self._of(server).pause(seconds)

    def _of(self, server: ServerRun) -> Ledger:
        with self._lock:
            return self._ledgers.setdefault(server, Ledger(server))


class FarLedgers:
    """The `Limiter` where the ledgers are in another process. `call`: of a method by name, and arguments."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def reserve(self, server: ServerRun, guess: Usage) -> Grant:
        granted: Grant = self._call("reserve", server, guess)
        return granted

    def settle(self, server: ServerRun, grant: Grant, used: Usage) -> None:
        self._call("settle", server, grant, used)

    def pause(self, server: ServerRun, seconds: float) -> None:
        self._call("pause", server, seconds)


_shared: Limiter = Ledgers()


def share(limiter: Limiter) -> None:
    """From now on all generators in this process count their requests there: the seam to other workers."""
    global _shared
    _shared = limiter


def shared() -> Limiter:
    return _shared
