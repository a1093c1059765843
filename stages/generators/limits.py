"""How often a server may be asked, and for how many tokens: one account for all workers of a run."""

import threading
import time
from dataclasses import dataclass
from typing import Protocol

from stages.generators.config import ServerRun
from stages.generators.protocol import GenerationError


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
    """Leave to send a request, `wait_s` seconds from now. `tokens`: what it counts for until it ends."""

    wait_s: float
    tokens: int


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
    is corrected once it has ended.
    """

    def __init__(self, server: ServerRun) -> None:
        self._server, self._lock = server, threading.Lock()
        self._request_at = self._token_at = self._open_at = 0.0  # of `time.monotonic`
        self._in_flight = self._requests = self._prompt = self._completion = 0

    def reserve(self, guess: Usage) -> Grant:
        with self._lock:
            expected = self._expected(guess)
            self._require_budget(expected)
            self._in_flight += 1
            now = time.monotonic()
            start = max(now, self._request_at, self._token_at, self._open_at)
            if self._server.requests_per_s:
                self._request_at = start + 1 / self._server.requests_per_s
            self._token_at = start + self._token_seconds(expected.total)
            return Grant(start - now, expected.total)

    def settle(self, grant: Grant, used: Usage) -> None:
        with self._lock:
            self._in_flight -= 1
            self._token_at += self._token_seconds(used.total - grant.tokens)
            if used.total:
                self._requests += 1
                self._prompt += used.prompt
                self._completion += used.completion

    def pause(self, seconds: float) -> None:
        with self._lock:
            self._open_at = max(self._open_at, time.monotonic() + seconds)

    def _token_seconds(self, tokens: int) -> float:
        return tokens * 60 / self._server.tokens_per_minute if self._server.tokens_per_minute else 0.0

    def _expected(self, guess: Usage) -> Usage:
        if not self._requests:
            return guess
        return Usage(-(-self._prompt // self._requests), -(-self._completion // self._requests))

    def _require_budget(self, expected: Usage) -> None:
        """With what is in flight: what the server has begun is paid for."""
        ahead, server = self._in_flight + 1, self._server
        tokens = self._prompt + self._completion + ahead * expected.total
        cost = self._cost(self._prompt, self._completion) + ahead * self._cost(
            expected.prompt, expected.completion
        )
        if server.max_tokens_total is not None and tokens > server.max_tokens_total:
            raise BudgetSpent(self._spent("max_tokens_total", server.max_tokens_total, expected.total))
        if server.max_cost is not None and cost > server.max_cost:
            raise BudgetSpent(self._spent("max_cost", server.max_cost, expected.total))

    def _cost(self, prompt: int, completion: int) -> float:
        prices = self._server.prompt_price or 0.0, self._server.completion_price or 0.0
        return (prompt * prices[0] + completion * prices[1]) / 1e6

    def _spent(self, key: str, limit: float, expected: int) -> str:
        tokens = self._prompt + self._completion
        priced = self._server.prompt_price is not None and self._server.completion_price is not None
        cost = f", cost {self._cost(self._prompt, self._completion):.4g}" if priced else ""
        return (
            f"the budget of this run, server.{key}={limit:,.12g}, has no room for a request of about "
            f"{expected:,} tokens: {self._requests:,} requests took {tokens:,} tokens{cost}, and "
            f"{self._in_flight:,} were in flight; finished shards are kept, the same command goes on with a "
            "fresh budget"
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


_shared: Limiter = Ledgers()


def share(limiter: Limiter) -> None:
    """From now on all generators in this process count their requests there: the seam to other workers."""
    global _shared
    _shared = limiter


def shared() -> Limiter:
    return _shared
