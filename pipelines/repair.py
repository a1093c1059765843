"""What is damaged is set aside under `quarantine/`, so that the next night makes just that again."""

from collections.abc import Sequence

import pyarrow as pa

from pipelines import journal, plan
from pipelines.changes import tombstones, without
from pipelines.corpus import FINGERPRINT, QUARANTINE, Corpus, CorpusError, shard_file, stamp, write_row_groups
from pipelines.index.salvage import set_index_aside
from pipelines.integrity import Fault, Remedy, check_plan, read_sealed
from pipelines.parquet import parquet_bytes
from pipelines.shards import part_of
from stages.schemas import PLACE, PLAN, TOLD


def repair(corpus: Corpus, fault: Fault) -> str | None:
    """What was done, in words; None where nothing can be. The corpus is one that this run has locked."""
    match fault.remedy:
        case Remedy.SHARDS:
            return _set_shards_aside(corpus, fault)
        case Remedy.RECORD:
            _set_aside(corpus, fault.path)
            return "the next night writes it again"
        case Remedy.INDEX:
            return set_index_aside(corpus, fault.path)
        case Remedy.NEIGHBOURS:
            _set_aside(corpus, fault.path)
            return "set aside; darkroom index neighbours finds them again"
        case Remedy.PLAN:
            return "rebuilt from items" if _rebuild_plan(corpus) else None
        case Remedy.NONE:
            return None


def _set_aside(corpus: Corpus, path: str) -> None:
    if corpus.exists(path):
        corpus.check_fence()
        corpus.move(path, f"{QUARANTINE}/{path}")


def _set_shards_aside(corpus: Corpus, fault: Fault) -> str:
    """The good shards of a merged file become files of their own first; until it goes, it hides them."""
    dataset, _, file = fault.path.rpartition("/")
    part = part_of(file)
    if part is not None and part.merged and fault.good:
        with corpus.open_parquet(fault.path) as opened:
            made = stamp(opened.schema_arrow)
            metadata = None if made is None else {FINGERPRINT: made}
            for shard in fault.good:
                table = opened.read_row_group(shard - part.first)
                data = parquet_bytes([table], metadata)
                corpus.create(data, dataset, shard_file(shard), check=corpus.check_fence)
    _set_aside(corpus, fault.path)
    again = len(part.shards) - len(fault.good) * part.merged if part is not None else 0
    return f"set aside; the next night makes {again} shards again"


# The plan


def _rebuild_plan(corpus: Corpus) -> bool:
    """Plan files for the items that no readable one has; False where that cannot be, and nothing is changed.

    What the source said of the files is lost: so their size is -1, and the next night compares their bytes.
    """
    try:
        good, bad = _plan_files(corpus)
        known = {shard for shards in good.values() for shard in shards}
        groups = _unplanned_items(corpus, known)
        others = _others(corpus) - known - groups.keys()
    except CorpusError:
        return False
    files = {file: _fitting(groups, file, good) for file in _gaps(good)}
    if others or sum(map(len, files.values())) < len(groups):
        return False
    for file in bad:
        corpus.write_bytes(corpus.read_bytes(plan.NAME, file), QUARANTINE, plan.NAME, file)
    for file, tables in files.items():
        if tables:
            write_row_groups(corpus, tables, plan.NAME, file)
    for file in bad:
        if not files.get(file):
            corpus.delete(plan.NAME, file)
    return True


def _plan_files(corpus: Corpus) -> tuple[dict[str, Sequence[int]], list[str]]:
    """The shards of each file that can be read, and the files that cannot."""
    good: dict[str, Sequence[int]] = {}
    bad: list[str] = []
    for file in journal.files(corpus, plan.NAME):
        try:
            shards = [shard for shard, _ in check_plan(read_sealed(corpus, f"{plan.NAME}/{file}", PLAN))]
            good[file] = shards
        except CorpusError:
            bad.append(file)
    return good, bad


def _unplanned_items(corpus: Corpus, known: set[int]) -> dict[int, pa.Table]:
    """By shard: the plan's rows of items that no readable plan file has. Raises: CorpusError."""
    gone, groups = tombstones(corpus), {}
    lost = [shard for shard in corpus.shards("items") if shard not in known]
    for shard, table in corpus.scan("items", ["image_id", "uri", "reused_from", *TOLD.names], lost):
        if len(rows := without(table, gone)):
            unknown = pa.repeat(pa.scalar(-1, pa.int64()), len(rows))
            told = rows.append_column("size", unknown).append_column("mtime_ns", unknown)
            for field in PLACE:  # what the next night finds, and records as touched
                told = told.append_column(field, pa.nulls(len(rows), field.type))
            groups[shard] = told.select(PLAN.names).cast(PLAN)
    return groups


def _others(corpus: Corpus) -> set[int]:
    """Shards that any dataset has rows in."""
    gone = tombstones(corpus)
    return {
        shard
        for name in corpus.datasets()
        for shard, table in corpus.scan(name, ["image_id"])
        if len(without(table, gone))
    }


def _gaps(good: dict[str, Sequence[int]]) -> list[str]:
    """A free name before, between and after the readable files, where there is one."""
    numbers = sorted(int(file.removesuffix(".parquet").rpartition("-")[2]) for file in good)
    free = [number + 1 for number in [0, *numbers] if number + 1 not in numbers]
    return [f"{plan.NAME}-{number:06d}.parquet" for number in free]


def _fitting(groups: dict[int, pa.Table], file: str, good: dict[str, Sequence[int]]) -> list[pa.Table]:
    """The row groups whose shards lie between those of the files before and after."""
    before = max((max(shards, default=-1) for name, shards in good.items() if name < file), default=-1)
    after = min((min(shards) for name, shards in good.items() if name > file and shards), default=1 << 43)
    return [groups[shard] for shard in sorted(groups) if before < shard < after]
