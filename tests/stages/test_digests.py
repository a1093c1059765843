"""Sets of digests."""

import hashlib
import pickle

import pytest

from stages.digests import Digests


def _digest(number: int) -> "hashlib._Hash":
    return hashlib.sha256(str(number).encode())


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_digests_hold_what_they_were_made_of_and_nothing_else(count: int) -> None:
    digests = Digests.of(_digest(number).hexdigest() for number in [*range(count), *range(count)])
    assert len(digests) == count
    assert len(digests.data) == 32 * count
    assert [_digest(number).digest() in digests for number in range(count + 50)] == [True] * count + [
        False
    ] * 50
    assert pickle.loads(pickle.dumps(digests)) == digests


@pytest.mark.parametrize("text", ["ab", "zz" * 32, "ab" * 31])
def test_digests_of_what_is_no_digest_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="hex"):
        Digests.of([text])
