"""Fixtures that more than one folder of tests uses."""

from collections.abc import Iterator

import pytest

from pipelines.flow import ClusterConfig, connect


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for all tests that need one: starting it takes 5 s and more."""
    connect(ClusterConfig(cpus=4), steps=())
    import ray

    yield
    ray.shutdown()
