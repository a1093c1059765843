import numpy as np
import pytest

from stages.index.selectors import excluding, only

# Row addresses of few shards, of many, and numbers that are none.
KINDS = pytest.mark.parametrize(
    "top", [1 << 20, 1 << 33, 1 << 40, (1 << 63) - 1], ids=lambda top: f"{top:.0e}"
)


def _some(top: int, count: int, seed: int) -> np.typing.NDArray[np.int64]:
    return np.append(np.random.default_rng(seed).integers(0, top, count - 1), top - 1)


@KINDS
def test_only_takes_its_ids_and_no_others(top: int) -> None:
    ids, others = _some(top, 500, 61), _some(top, 500, 62)
    selector = only(ids)

    assert all(selector.is_member(int(one)) for one in ids)
    assert [selector.is_member(int(one)) for one in others] == np.isin(others, ids).tolist()


@KINDS
def test_excluding_takes_all_but_its_ids(top: int) -> None:
    ids, others = _some(top, 500, 63), _some(top, 500, 64)
    selector = excluding(ids)

    assert not any(selector.is_member(int(one)) for one in ids)
    assert [selector.is_member(int(one)) for one in others] == (~np.isin(others, ids)).tolist()
    assert selector.is_member((1 << 62) + 1)


@KINDS
def test_only_without_some_takes_the_rest(top: int) -> None:
    ids = np.unique(_some(top, 500, 65))
    selector = only(ids, without=ids[::2])

    assert [selector.is_member(int(one)) for one in ids] == (np.arange(len(ids)) % 2 == 1).tolist()


def test_only_of_no_ids_takes_none() -> None:
    assert not any(only(np.empty(0, np.int64)).is_member(one) for one in (0, 1, 1 << 40))


def test_excluding_no_ids_is_no_selector() -> None:
    assert excluding(np.empty(0, np.int64)) is None
