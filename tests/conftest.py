"""Fixtures that more than one folder of tests uses."""

import signal
from collections.abc import Iterator

import pytest

from pipelines.flow import ClusterConfig, connect

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a shell's background job. Processes that tests start and interrupt would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for all tests that need one: starting it takes 5 s and more."""
    connect(ClusterConfig(cpus=4), steps=())
    import ray

    yield
    ray.shutdown()
