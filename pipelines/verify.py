"""Every byte of a corpus read again: what is damaged, what is unfinished, and what does not belong there."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from pipelines import changes, containers, forgotten, journal, plan
from pipelines.corpus import LOCK, QUARANTINE, Corpus, CorpusError, DatasetInfo
from pipelines.facts import Damage, Verification
from pipelines.index.inspection import inspect_index
from pipelines.integrity import Fault, Remedy, check_part, check_plan, read_sealed
from pipelines.jobs import VerifyConfig
from pipelines.lock import locked
from pipelines.repair import repair
from pipelines.shards import Listing, part_of
from pipelines.source_record import SOURCE
from stages.index.vectors import Ids
from stages.schemas import PLAN

_RECORD = "_dataset.json"
_JOURNALS = {changes.NAME: changes.CHANGES, forgotten.NAME: forgotten.FORGOTTEN}
_LOSS = {
    changes.NAME: "which items are gone is not known without it",
    forgotten.NAME: "what was taken down could come back without it",
}
_KINDS = ("answers", "captions", "embeddings")
_KNOWN = {
    *(*_KINDS, *_JOURNALS, containers.NAME, plan.NAME, "items", "index", "runs", "mlflow"),
    *(QUARANTINE, LOCK, SOURCE),
}


@dataclass
class _Inspection:
    """What was found so far. `planned`: ids by shard; `…_whole`: whether all of these files could be read."""

    corpus: Corpus
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unfinished: dict[str, int] = field(default_factory=dict)
    planned: dict[int, Ids] = field(default_factory=dict)
    plan_whole: bool = True
    changes_whole: bool = True
    gone: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    files: int = 0
    size: int = 0

    def blame(self, path: str, problem: str, remedy: Remedy, good: Iterable[int] = ()) -> None:
        self.faults.append(Fault(path, problem, remedy, tuple(good)))

    def count(self, folder: str) -> list[str]:
        """The names in a folder, and their files into the sums."""
        entries = self.corpus.entries(folder)
        found = [entry for entry in entries if entry.type == pafs.FileType.File]
        self.files, self.size = self.files + len(found), self.size + sum(entry.size or 0 for entry in found)
        return [entry.base_name for entry in entries]

    def comparable(self, listing: Listing) -> dict[int, Ids]:
        """The planned ids of shards of which they are known for certain: none where nobody planned it."""
        if not self.changes_whole:
            return {}
        strangers = listing.places.keys() - self.planned.keys() if self.plan_whole else ()
        return self.planned | {shard: np.empty(0, np.int64) for shard in strangers}

    def stray(self, folder: str, names: Iterable[str]) -> None:
        self.notes += [f"{folder}/{name} does not belong there" for name in names]


def verify(config: VerifyConfig) -> Verification:
    """Reads the plan, the journals, all datasets and all indexes; with `repair`, sets damage aside.

    Raises: CorpusError where there is no corpus, LockedError.
    """
    corpus = Corpus(config.corpus)
    if not any(corpus.exists(name) for name in (plan.NAME, "items")):
        raise CorpusError(f"{corpus.location} holds no corpus: make one with darkroom nightly")
    if not config.repair:
        return _report(inspect(corpus), {})
    with locked(corpus, config.steal_lock) as fenced:
        found = inspect(fenced)
        return _report(found, {fault: repair(fenced, fault) for fault in found.faults})


def _report(found: _Inspection, repaired: dict[Fault, str | None]) -> Verification:
    damages = [Damage(fault.path, fault.problem, repaired.get(fault)) for fault in found.faults]
    return Verification(tuple(damages), found.unfinished, tuple(found.notes), found.files, found.size)


def inspect(corpus: Corpus) -> _Inspection:
    """Changes nothing. A run beside it does not disturb it: what is planned is read after the listings."""
    found = _Inspection(corpus)
    listings = {name: corpus.listing(name) for name in _datasets(corpus)}
    _inspect_journals(found)
    _inspect_containers(found)
    _inspect_plan(found)
    _inspect_orphans(found, listings["items"])
    for name, listing in listings.items():
        _inspect_dataset(found, name, listing)
    for entry in corpus.entries("index"):
        _inspect_index(found, entry.base_name)
    found.stray(corpus.location, (e.base_name for e in corpus.entries() if e.base_name not in _KNOWN))
    return found


def _datasets(corpus: Corpus) -> list[str]:
    named = [f"{kind}/{entry.base_name}" for kind in _KINDS for entry in corpus.entries(kind)]
    return [*named, "items"]


# The plan and the journals


def _inspect_journals(found: _Inspection) -> None:
    for name, schema in _JOURNALS.items():
        files = journal.files(found.corpus, name)
        found.stray(name, set(found.count(name)) - set(files))
        numbered = [f"{name}-{number:06d}.parquet" for number in range(1, len(files) + 1)]
        for file in sorted({*files, *numbered}):
            _inspect_journal(found, name, file, schema)


def _inspect_journal(found: _Inspection, name: str, file: str, schema: pa.Schema) -> None:
    path = f"{name}/{file}"
    try:
        tables = read_sealed(found.corpus, path, schema)
        if name == changes.NAME:
            found.gone = np.union1d(found.gone, changes.gone_in(pa.concat_tables(tables)))
    except (CorpusError, FileNotFoundError) as error:
        problem = "it is missing" if isinstance(error, FileNotFoundError) else str(error)
        found.blame(path, f"{problem}; {_LOSS[name]}: put a copy of it back", Remedy.NONE)
        found.changes_whole = found.changes_whole and name != changes.NAME


def _inspect_containers(found: _Inspection) -> None:
    """A gap between their numbers is none: compaction folds them into one."""
    name = containers.NAME
    files = journal.files(found.corpus, name)
    found.stray(name, set(found.count(name)) - set(files))
    for file in files:
        try:
            read_sealed(found.corpus, f"{name}/{file}", containers.CONTAINERS)
        except FileNotFoundError:
            continue  # folded since it was listed
        except CorpusError as error:
            found.blame(f"{name}/{file}", f"{error}; what it names is read again without it", Remedy.RECORD)


def _inspect_plan(found: _Inspection) -> None:
    files = journal.files(found.corpus, plan.NAME)
    found.stray(plan.NAME, set(found.count(plan.NAME)) - set(files))
    for file in files:
        path = f"{plan.NAME}/{file}"
        try:
            shards = dict(check_plan(read_sealed(found.corpus, path, PLAN)))
            if shards and found.planned and min(shards) <= max(found.planned):
                raise CorpusError(f"its shard {min(shards)} does not come after those of the file before it")
            found.planned |= shards
        except CorpusError as error:
            found.blame(path, str(error), Remedy.PLAN)
            found.plan_whole = False


# Datasets


def _inspect_orphans(found: _Inspection, listing: Listing) -> None:
    """Items that no file of the plan has: the file is lost."""
    lost = sorted(listing.places.keys() - found.planned.keys())
    if not (lost and found.plan_whole and found.changes_whole):
        return
    try:
        tables = dict(found.corpus.scan("items", ["image_id"], lost))
    except (CorpusError, FileNotFoundError):
        return  # whatever is wrong with it is found when the dataset is inspected
    orphans = [shard for shard, table in tables.items() if len(changes.without(table, found.gone))]
    if orphans:
        problem = f"it lacks {len(orphans)} shards that items has, the first is {orphans[0]}"
        found.blame(plan.NAME, problem, Remedy.PLAN)
        found.plan_whole = False


def _inspect_dataset(found: _Inspection, name: str, listing: Listing) -> None:
    names = found.count(name)
    found.stray(name, (file for file in names if file != _RECORD and part_of(file) is None))
    info = _record(found, name, _RECORD in names, bool(listing.places))
    planned = found.comparable(listing)
    for part in [*listing.visible, *listing.hidden]:
        path = f"{name}/{part.file}"
        try:
            verdict = check_part(found.corpus, info, name, part, planned, found.gone)
        except FileNotFoundError:
            continue  # compacted away since it was listed
        except CorpusError as error:
            found.blame(path, str(error), Remedy.SHARDS)
            continue
        if verdict.problem:
            found.blame(path, verdict.problem, Remedy.SHARDS, verdict.good)
    if lacking := len(found.planned.keys() - listing.places.keys()):
        found.unfinished[name] = lacking


def _record(found: _Inspection, name: str, exists: bool, needed: bool) -> DatasetInfo | None:
    info = found.corpus.info(name)
    if info is not None and info.name == name:
        return info
    if exists:
        found.blame(f"{name}/{_RECORD}", "it is damaged", Remedy.RECORD)
    elif needed:
        found.notes.append(f"{name}/{_RECORD} is missing: the next night writes it again")
    return None


# Indexes


def _inspect_index(found: _Inspection, name: str) -> None:
    inside = inspect_index(found.corpus, name)
    found.faults += inside.faults
    found.notes += inside.notes
    found.files, found.size = found.files + inside.files, found.size + inside.size
    if not inside.current and not inside.faults:
        found.unfinished[f"index/{name}"] = 1
