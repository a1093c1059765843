"""Shards through stages: in this process, or on Ray Data. The only module that imports ray."""

import json
import logging
import math
import os
import secrets
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import pyarrow as pa

from pipelines.corpus import CorpusError
from pipelines.local import LoadedStep, run_local
from pipelines.plan import PlannedShard
from pipelines.reuse import copies_of, rows_to_compute
from pipelines.startup import signals_kept, stderr_kept_back
from pipelines.stream import Flow, ShardResult, Step, write_outputs
from stages.generators.limits import FarLedgers, Ledgers, share
from stages.schemas import shard_of


class ClusterTooSmallError(CorpusError):
    """The actors that are asked for do not fit into the cluster."""


class StepDiedError(CorpusError):
    """The process of an actor step dies however often it is restarted, or cannot start."""


class Backend(StrEnum):
    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True)
class ClusterConfig:
    """Where shards are worked on. `local`: in this process, one shard after the other."""

    backend: Backend = Backend.RAY
    address: str | None = None  # of a Ray cluster to join; None starts one on this machine
    cpus: int | None = None  # for decoding, of a cluster started here; None: all cores
    dashboard: bool = False  # on loopback only

    def __post_init__(self) -> None:
        if self.cpus is not None and self.cpus < 1:
            raise ValueError(f"cluster.cpus must be at least 1, got {self.cpus}")


def run_flow(
    flow: Flow, shards: Sequence[PlannedShard], cluster: ClusterConfig, ledgers: Ledgers | None = None
) -> Iterator[ShardResult]:
    """Works on the shards and yields each one once its files are written; order is not promised.

    `ledgers`: where all workers of a run count what they ask of servers; it may have several flows.
    """
    ledgers = ledgers or Ledgers()
    match cluster.backend:
        case Backend.LOCAL:
            share(ledgers)
            yield from run_local(flow, shards)
        case Backend.RAY:
            yield from _run_ray(flow, shards, cluster, ledgers)


# On Ray Data: one read task = one shard = one block, from the plan to the files.


class _Actor(LoadedStep):
    """The body of an actor. `ledgers`: the actor that counts for all of them."""

    def __init__(self, step: Step, ledgers: Any) -> None:
        if ledgers is not None:
            share(FarLedgers(partial(_call_ledgers, ledgers)))
        super().__init__(step)


def _call_ledgers(actor: Any, method: str, *arguments: Any) -> Any:
    import ray

    with plain_errors(()):
        return ray.get(getattr(actor, method).remote(*arguments))


_ledger_actors: "weakref.WeakKeyDictionary[Ledgers, Any]" = weakref.WeakKeyDictionary()


def _ledger_actor(step: Step, ledgers: Ledgers) -> Any:
    """The same for all flows of a run; None where nobody asks a server."""
    import ray

    if not step.asks_servers:
        return None
    if ledgers not in _ledger_actors:
        _ledger_actors[ledgers] = ray.remote(num_cpus=0)(Ledgers).remote()
    return _ledger_actors[ledgers]


def _run_step_once(step: Step, shard: pa.Table) -> pa.Table:
    return LoadedStep(step)(shard)


def _write_shard(flow: Flow, reusing: Mapping[int, PlannedShard], shard: pa.Table) -> pa.Table:
    number = shard_of(shard["image_id"][0].as_py())
    copies = copies_of(flow.corpus, reusing[number], flow.outputs) if number in reusing else {}
    result = write_outputs(flow, number, shard, copies)
    return pa.table({"result": [json.dumps(asdict(result))]})


def _run_ray(
    flow: Flow, shards: Sequence[PlannedShard], cluster: ClusterConfig, ledgers: Ledgers
) -> Iterator[ShardResult]:
    connect(cluster, flow.steps)
    import ray.data  # after `connect`, which sets what Ray reads as it is imported

    _require_room(flow.steps, len(shards))
    _configure_data(ray.data.DataContext.get_current())
    stream = ray.data.read_datasource(_shard_source(flow, shards), override_num_blocks=len(shards), **_TASK)
    for step in flow.steps:
        stream = _append(stream, step, len(shards), _ledger_actor(step, ledgers))
    reusing = {planned.shard: planned for planned in shards if planned.reuses}
    written = stream.map_batches(partial(_write_shard, flow, reusing), num_cpus=_WRITE_CPUS, **_WHOLE_SHARDS)
    with plain_errors([step.name for step in flow.steps]):
        for batch in written.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for text in batch["result"].to_pylist():
                yield ShardResult(**json.loads(text))


_WHOLE_SHARDS: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
# Ray fuses operators that ask for the same. Tasks ask for memory and actors do not, so reading and decoding
# become one task, and a decoder that crashes never takes a loaded model with it. Half a gigabyte is a shard
# of photographs: 512 files of 200 kB and as many views of 384 x 512 pixels.
_TASK: dict[str, Any] = {"num_cpus": 1, "memory": 512 * 1024 * 1024}
# Of a model's process. Ray Data's own number has no end, and so has a night whose model dies of every shard.
RESTARTS = 3
_WRITE_CPUS = 0.25  # compression of a shard's rows is milliseconds beside what made them


def _append(stream: Any, step: Step, shards: int, ledgers: Any) -> Any:
    from ray.data import ActorPoolStrategy

    if step.actors is None:
        return stream.map_batches(partial(_run_step_once, step), **_TASK, **_WHOLE_SHARDS)
    # `map_batches` itself refuses a GPU without a number of rows, which would cut and merge shards.
    return stream.map_batches_internal(
        type(step.name, (_Actor,), {}),  # Ray says the name of the class when its process died
        fn_constructor_args=(step, ledgers),
        compute=ActorPoolStrategy(
            size=min(step.actors.count, shards),
            max_concurrent_calls_per_actor=step.actors.shards_in_flight,
            enable_true_multi_threading=step.actors.shards_in_flight > 1,
        ),
        num_cpus=step.actors.cpus,
        num_gpus=step.actors.gpus,
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
        **_WHOLE_SHARDS,
    )


def _shard_source(flow: Flow, shards: Sequence[PlannedShard]) -> Any:
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    def read_task(planned: PlannedShard) -> Any:
        metadata = BlockMetadata(num_rows=planned.rows, size_bytes=None, input_files=None, exec_stats=None)
        return ReadTask(lambda: [rows_to_compute(flow, planned)], metadata)

    class Shards(Datasource):  # type: ignore[misc]  # ray is untyped
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            return [read_task(planned) for planned in shards]

    return Shards()


def _configure_data(context: Any) -> None:
    context.target_max_block_size = None  # never cut a shard
    # Ray keeps half of all CPUs back, split evenly among operators: on 2 cores decoding then runs one task
    # at a time. With a tenth it runs on both, and still not further ahead than the object store allows.
    context.op_resource_reservation_ratio = 0.1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True


def connect(cluster: ClusterConfig, steps: Sequence[Step]) -> None:
    """Joins the cluster at `address`, or starts one here, unless this process is connected already.

    A cluster started here counts CPUs for the model actors on top of those for decoding: an actor waits
    for its input most of the time, and with one count for both, one core could run either and never both.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if cluster.address is None:
        _keep_private()
    import ray.data  # whole: as it is imported, it sets the level of the logger below

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    options["address"] = cluster.address or "local"
    if cluster.address is None:
        actors = sum(step.actors.count * step.actors.cpus for step in steps if step.actors)
        options["num_cpus"] = math.ceil((cluster.cpus or os.cpu_count() or 1) + actors + 1)
        if cluster.dashboard:
            _require_dashboard()
        options["include_dashboard"] = cluster.dashboard
        options["dashboard_host"] = "127.0.0.1"
    with stderr_kept_back(), signals_kept():
        ray.init(**options)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors it logs are raised as well


def _keep_private() -> None:
    """Whoever reaches a cluster of Ray runs code in it: the one started here is for this process only.

    Ray listens on every address unless told that it is on a Mac, where it keeps to loopback. Other users
    of this machine reach loopback too: a token for this run only keeps them out, without the file that Ray
    would leave in the home folder.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _require_dashboard() -> None:
    try:
        import ray.dashboard.optional_deps  # noqa: F401
    except ImportError as error:
        raise CorpusError(f"cluster.dashboard needs pip install 'ray[default]': {error}") from error


def _require_room(steps: Sequence[Step], shards: int) -> None:
    """Actors hold their CPUs for the whole run: with none left for decoding, Ray would wait for ever."""
    import ray

    total = ray.cluster_resources()
    pools = [(step.actors, min(step.actors.count, shards)) for step in steps if step.actors]
    for name, needed, why in (
        ("CPU", sum(pool.cpus * count for pool, count in pools) + 1, "for the actors and one to decode"),
        ("GPU", sum(pool.gpus * count for pool, count in pools), "for the actors"),
    ):
        if needed > total.get(name, 0):
            raise ClusterTooSmallError(
                f"the cluster has {total.get(name, 0):g} {name}s, this run needs {needed:g} {why}: "
                "lower count, cpus or gpus of encoder.actors and captioner.actors"
            )


@contextmanager
def plain_errors(steps: Sequence[str]) -> Iterator[None]:
    """What was raised in a worker, as itself rather than inside Ray's wrapping; a death with its step.

    `steps`: the names of the classes that run in actors. Raises: StepDiedError.
    """
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.ActorDiedError as error:
        text = str(error)
        name = next((step for step in steps if f"({step})" in text), "of a model")
        if error.actor_init_failed:
            raise StepDiedError(f"step {name} cannot start: {text.strip().splitlines()[-1]}") from None
        raise StepDiedError(
            f"step {name}: its process died, and {RESTARTS} times more after a restart; "
            "most often memory runs out or the model crashes, Ray's logs on that machine know more"
        ) from None
