"""`darkroom index plan`: what a build over so many vectors would take. Reads nothing but a file of rates."""

from pathlib import Path

from pipelines.index.costs import Gpus, Work, phases, query_seconds
from pipelines.index.rates import Rates, read_rates
from pipelines.index_facts import IndexPlan
from pipelines.index_jobs import IndexPlanJob
from stages.index.choice import choose_factory, training_size
from stages.index.config import IndexConfigError

MEASURED = Path(__file__).with_name("rates.json")
"""The rates of the machine that Darkroom was developed on."""

_NPROBES = (16, 64, 256)


def plan_index(job: IndexPlanJob) -> IndexPlan:
    """Raises: IndexConfigError, RatesError, OSError."""
    path = Path(job.rates) if job.rates else MEASURED
    rates = read_rates(path.read_bytes(), str(path))
    vectors = int(job.vectors)
    try:
        choice = choose_factory(vectors, job.dim, job.index)
    except IndexConfigError as error:
        raise IndexConfigError(str(error).replace("index.", "")) from error
    sample = training_size(choice.factory, vectors, job.dim, job.index)
    gpus = Gpus(job.gpus, (job.gpu_tflops or 0) * 1e12 * job.gpu_share) if job.gpus else None
    work = Work(vectors, job.dim, choice.factory, sample, job.cores, job.machines, gpus)
    lists = work.parts.nlist
    return IndexPlan(
        factory=choice.factory,
        reason=choice.reason,
        sample=sample,
        bytes_per_vector=work.row_bytes,
        phases=tuple(phases(work, rates)),
        searches={nprobe: query_seconds(work, rates, nprobe) for nprobe in _NPROBES if nprobe <= lists},
        notes=tuple(_notes(job, rates)),
    )


def _notes(job: IndexPlanJob, rates: Rates) -> list[str]:
    source = f"rates of one core: {rates.hardware}, {rates.date}, {rates.dim} dimensions"
    notes = [f"{source}, {rates.factory}; another machine differs: measure it with scripts/bench_index.py"]
    if job.gpus:
        notes.append(
            f"no GPU was measured: {job.gpu_share:.0%} of {job.gpu_tflops:g} TFLOP/s a GPU is an assumption"
        )
    for vectors in sorted({check.vectors for check in rates.checks}):
        errors = [f"{check.phase} {check.error:+.0%}" for check in rates.checks if check.vectors == vectors]
        notes.append(f"error against a build of {vectors:,} vectors: {', '.join(errors)}")
    return notes
