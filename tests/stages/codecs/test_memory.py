"""Tests of stages/codecs/memory.py: the limit holds inside the block, and leaves no trace."""

import resource

import numpy as np
import pytest

from stages.codecs.memory import memory_limit


def test_memory_limit_large_allocation_fails_inside_only() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with memory_limit(64), pytest.raises(MemoryError):
        np.ones(512 * 2**20, dtype=np.uint8)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert np.ones(512 * 2**20, dtype=np.uint8).size == 512 * 2**20


def test_memory_limit_small_allocation_succeeds() -> None:
    with memory_limit(256):
        assert np.ones(32 * 2**20, dtype=np.uint8)[-1] == 1


def test_memory_limit_is_put_back_after_an_error() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)

    def fail() -> None:
        with memory_limit(64):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_memory_limit_inside_another_never_raises_it() -> None:
    with memory_limit(64):
        outer = resource.getrlimit(resource.RLIMIT_AS)
        with memory_limit(4096):
            assert resource.getrlimit(resource.RLIMIT_AS) == outer


def test_memory_limit_none_sets_nothing() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with memory_limit(None):
        assert resource.getrlimit(resource.RLIMIT_AS) == before
