"""Fixtures that more than one folder of tests uses."""

import signal
from collections.abc import Iterator

import pytest

from pipelines.flow import ClusterConfig, connect

# Ignored in a shell's background job, and under nohup. Processes that tests start and interrupt would ignore
# them too.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for all tests that need one: starting it takes 5 s and more."""
    connect(ClusterConfig(cpus=4), steps=())
    import ray

    yield
    ray.shutdown()
