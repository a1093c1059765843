"""Tasks of an index build: one after the other in this process, or on Ray actors of one thread each."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from pipelines.flow import RESTARTS, Backend, ClusterConfig, connect, plain_errors

Task = TypeVar("Task")
Result = TypeVar("Result")

MakeWorker: TypeAlias = Callable[[], Callable[[Task], Result]]
"""Makes what does a task, in the process that will do it. It must pickle."""


@dataclass(frozen=True)
class Crew:
    """Where tasks are done: by a worker a core, or a GPU where `gpu` is set."""

    cluster: ClusterConfig
    gpu: bool = False


def run_tasks(
    name: str, make: MakeWorker[Task, Result], tasks: Sequence[Task], crew: Crew
) -> Iterator[tuple[Task, Result]]:
    """Each task with what came of it, in the order in which they end.

    A worker has one thread: two of them lose nothing on two cores, where one of two threads loses a
    fifth. A single task is done in this process, on all cores: starting Ray takes longer than it.
    Raises: what a worker raised; StepDiedError.
    """
    if crew.cluster.backend is Backend.LOCAL or len(tasks) <= 1:
        work = make() if tasks else None
        for task in tasks:
            assert work is not None
            yield task, work(task)
    else:
        connect(crew.cluster, ())  # before `plain_errors`, which imports Ray: it reads settings as it loads
        with plain_errors([name]):
            yield from _run_on_ray(name, make, tasks, crew)


class _Worker:
    """The body of an actor."""

    def __init__(self, make: MakeWorker[Any, Any]) -> None:
        self._work = make()

    def run(self, task: Any) -> Any:
        return self._work(task)


def _run_on_ray(
    name: str, make: MakeWorker[Task, Result], tasks: Sequence[Task], crew: Crew
) -> Iterator[tuple[Task, Result]]:
    import ray

    # Ray says the name of the class when its process died.
    options = {
        "num_cpus": 1,
        "num_gpus": int(crew.gpu),
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}},
    }
    restarts = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    actor_class = ray.remote(**options, **restarts)(type(name, (_Worker,), {}))
    actors = [actor_class.remote(make) for _ in range(min(len(tasks), _room(crew)))]
    waiting, free = deque(tasks), list(actors)
    running: dict[Any, tuple[Any, Task]] = {}
    try:
        while waiting or running:
            while waiting and free:
                actor, task = free.pop(), waiting.popleft()
                running[actor.run.remote(task)] = (actor, task)
            [done], _ = ray.wait(list(running), num_returns=1)
            actor, task = running.pop(done)
            free.append(actor)
            yield task, ray.get(done)
    finally:
        for actor in actors:
            ray.kill(actor)


def _room(crew: Crew) -> int:
    """As many as there is room for, or Ray would wait for ever; at least one."""
    import ray

    total = ray.cluster_resources()
    room = int(total.get("GPU", 0)) if crew.gpu else int(total.get("CPU", 1))
    if crew.cluster.address is None:
        # A cluster that was started here counts more CPUs than there are, for actors of models.
        room = min(room, crew.cluster.cpus or os.cpu_count() or 1)
    return max(1, room)


def crew_of(cluster: ClusterConfig) -> Crew:
    """A worker for each GPU where there are some, else for each core."""
    import torch

    return Crew(cluster, gpu=torch.cuda.is_available())
