"""The account of a run with a server: rates, and budgets of tokens and money."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from stages.generators.config import ServerRun
from stages.generators.limits import BudgetSpent, Ledger, Usage

REQUEST = Usage(90, 10)


def _spend(ledger: Ledger, used: Usage, most: int = 1000) -> int:
    """How many requests of this size the ledger allows, one after the other."""
    for count in range(most):
        try:
            grant = ledger.reserve(Usage(10**6, 10**6))
        except BudgetSpent:
            return count
        ledger.settle(grant, used)
    return most


def test_requests_of_many_threads_are_spread_evenly() -> None:
    ledger = Ledger(ServerRun(requests_per_s=50))
    with ThreadPoolExecutor(8) as threads:
        waits = sorted(threads.map(lambda _: ledger.reserve(REQUEST).wait_s, range(100)))
    # The last of 100 comes 99 / 50 s after the first, however long the threads took to ask.
    assert waits[-1] == pytest.approx(99 / 50, abs=0.5)
    assert min(b - a for a, b in zip(waits[::10], waits[10::10], strict=False)) > 0.1


def test_tokens_per_minute_count_what_requests_took_and_not_what_was_guessed() -> None:
    ledger = Ledger(ServerRun(tokens_per_minute=6000))
    ledger.settle(ledger.reserve(Usage(900, 100)), REQUEST)
    assert ledger.reserve(REQUEST).wait_s == pytest.approx(1, abs=0.5)
    assert ledger.reserve(REQUEST).wait_s == pytest.approx(2, abs=0.5)


def test_refused_requests_take_no_tokens_of_the_minute() -> None:
    ledger = Ledger(ServerRun(tokens_per_minute=6000))
    for _ in range(100):
        ledger.settle(ledger.reserve(REQUEST), Usage(0, 0))
    assert ledger.reserve(REQUEST).wait_s < 1


def test_pause_holds_back_every_request() -> None:
    ledger = Ledger(ServerRun())
    ledger.pause(30)
    ledger.pause(10)
    assert ledger.reserve(REQUEST).wait_s == pytest.approx(30, abs=5)


def test_token_budget_is_used_and_not_exceeded() -> None:
    assert _spend(Ledger(ServerRun(max_tokens_total=1050)), REQUEST) == 10


def test_cost_budget_counts_prompt_and_completion_at_their_prices() -> None:
    server = ServerRun(max_cost=1.0, prompt_price=1000, completion_price=10_000)
    assert _spend(Ledger(server), Usage(100, 10)) == 5  # 0.1 and 0.1 each
    assert _spend(Ledger(server), Usage(100, 0)) == 10
    assert _spend(Ledger(server), Usage(0, 10)) == 10


def test_budget_counts_what_is_under_way_and_ends_only_after_it() -> None:
    ledger = Ledger(ServerRun(max_tokens_total=1000))
    ledger.settle(ledger.reserve(REQUEST), REQUEST)
    grants = [ledger.reserve(REQUEST) for _ in range(9)]
    assert None not in [grant.number for grant in grants]
    assert ledger.reserve(REQUEST).number is None
    ledger.settle(grants.pop(), Usage(0, 0))
    grants.append(ledger.reserve(REQUEST))
    assert grants[-1].number is not None
    for grant in grants:
        assert ledger.reserve(REQUEST).number is None
        ledger.settle(grant, REQUEST)
    with pytest.raises(BudgetSpent):
        ledger.reserve(REQUEST)


def test_first_request_goes_alone_where_the_guess_exceeds_the_budget() -> None:
    ledger = Ledger(ServerRun(max_tokens_total=1000))
    first = ledger.reserve(Usage(5000, 0))
    assert first.number is not None
    assert ledger.reserve(Usage(5000, 0)).number is None
    ledger.settle(first, REQUEST)
    assert ledger.reserve(Usage(5000, 0)).number is not None


def test_request_of_a_worker_that_died_holds_no_budget_for_ever() -> None:
    ledger = Ledger(ServerRun(max_tokens_total=150, deadline_s=1e-9))
    ledger.reserve(REQUEST)
    assert ledger.reserve(REQUEST).number is not None


def test_spent_budget_says_what_was_spent_also_from_another_process() -> None:
    ledger = Ledger(ServerRun(max_cost=0.001, prompt_price=10, completion_price=10))
    ledger.settle(ledger.reserve(REQUEST), REQUEST)
    with pytest.raises(BudgetSpent) as raised:
        ledger.reserve(REQUEST)
    told = str(pickle.loads(pickle.dumps(raised.value)))
    assert "max_cost" in told
    assert "100 tokens" in told
    assert "\n" not in told
