"""Commands that are killed, run again, and compared with an undisturbed run."""

import shutil
import signal
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.changes import tombstones
from pipelines.corpus import Corpus
from pipelines.index.layout import LISTS, PARTS, current_generation
from pipelines.index.opened import open_index
from tests.pipelines.processes import wait_until_gone
from tests.pipelines.zygote import Ended, Order, Zygote

SHARD_ROWS = 5
DATASETS = ("items", "embeddings/pocket", "captions/pocket", "answers/pocket")
STAGES = {
    "Isolated": "decode",
    "EmbedImages": "embed",
    "CaptionImages": "caption",
    "AnswerQuestions": "answer",
}
# A process that lost its parent has to notice it by itself.
ORPHANED_S = 5.0


@dataclass(frozen=True)
class Kill:
    """How a command dies; the fields are those of `Order`."""

    die_at: int | None = None
    torn_at: int | None = None
    kill_after: int | None = None
    delay_s: float = 0.0
    group: bool = False


@dataclass(frozen=True)
class Scene:
    """A command, the corpus it starts from (None: none), and what it leaves when nobody disturbs it."""

    words: Sequence[str]
    before: Path | None
    after: Path
    events: Sequence[str]


def run(zygote: Zygote, words: Sequence[str], corpus: Path, kill: Kill) -> Ended:
    trace, output = (corpus.with_name(f"{corpus.name}.{kind}") for kind in ("trace", "output"))
    order = Order([*words, f"corpus={corpus}"], str(corpus), str(trace), str(output), SHARD_ROWS)
    return zygote.run(replace(order, **vars(kill)))


def said(corpus: Path) -> str:
    return corpus.with_name(f"{corpus.name}.output").read_text()


def _events(corpus: Path) -> list[str]:
    return corpus.with_name(f"{corpus.name}.trace").read_text().splitlines()


def played(zygote: Zygote, words: Sequence[str], before: Path | None, after: Path) -> Scene:
    if before is not None:
        shutil.copytree(before, after)
    ended = run(zygote, words, after, Kill())
    assert ended.code == 0, said(after)
    return Scene(words, before, after, _events(after))


def _place(event: str) -> str:
    """The phase of an event of the trace: a stage, or what it does to which part of the corpus."""
    kind, _, path = event.partition(" ")
    if kind in ("begin", "end"):
        return STAGES[path]
    part, *rest = path.split("/")
    if part == "index":
        part = "pointer" if rest[-1:] == ["CURRENT"] else "index"
    return f"{part} {kind}"


def draw_kills(scene: Scene, at_events: int, mid_file: int, outside: int, seed: int) -> list[Kill]:
    rng = np.random.default_rng((seed, at_events))
    return [
        *_at_events(scene, at_events, rng),
        *_mid_file(scene, mid_file, rng),
        *_from_outside(scene, outside, rng),
    ]


def _at_events(scene: Scene, count: int, rng: np.random.Generator) -> list[Kill]:
    """Deaths at events of all phases in turn."""
    places = defaultdict(list)
    for number, event in enumerate(scene.events, 1):
        places[_place(event)].append(number)
    order = rng.permutation(sorted(places))
    return [Kill(die_at=int(rng.choice(places[order[turn % len(order)]]))) for turn in range(count)]


def _mid_file(scene: Scene, count: int, rng: np.random.Generator) -> list[Kill]:
    opened = [number for number, event in enumerate(scene.events, 1) if event.startswith("open")]
    numbers = rng.choice(opened, count, replace=False)
    return [Kill(die_at=int(number), torn_at=int(rng.integers(1, 400))) for number in numbers]


def _from_outside(scene: Scene, count: int, rng: np.random.Generator) -> list[Kill]:
    """Within the stages in turn, then anywhere; every second time the whole process group."""
    stages = [event for event in dict.fromkeys(scene.events) if event.startswith("begin")]
    kills = []
    for turn, wanted in zip(range(count), cycle([*stages, ""]), strict=False):
        after = [number for number, event in enumerate(scene.events, 1) if event.startswith(wanted)]
        kills.append(Kill(None, None, int(rng.choice(after)), float(rng.uniform(0, 0.02)), turn % 2 == 0))
    return kills


def shards_of(corpus: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(corpus).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in corpus.rglob("*.parquet")
        if path.name.startswith(("shard-", "merged-"))
    }


def values_of(corpus: Path) -> dict[str, Any]:
    """All files whose names and content must be those of an undisturbed run: bytes, but of texts the rows
    without the seconds that they took.
    """
    files = {path.relative_to(corpus): path for path in corpus.rglob("*") if path.is_file()}
    return {
        name.as_posix(): value_of(path, name)
        for name, path in files.items()
        if name.parts[0] not in ("changes", "index", "runs")
    }


def value_of(path: Path, name: Path) -> Any:
    """The bytes of a file; of a shard of texts its rows without seconds. `name`: its path in the corpus."""
    if name.parts[0] not in ("captions", "answers") or name.suffix != ".parquet":
        return path.read_bytes()
    with pq.ParquetFile(path) as file:  # alone: `read_table` would take the folder's name for a column
        return file.read().drop_columns(["latency_s"]).to_pylist()


def _temporary(corpus: Path) -> list[Path]:
    return [path for path in corpus.rglob(".*") if path.is_file()]


def assert_same(corpus: Path, reference: Path) -> None:
    assert _temporary(corpus) == []
    found, wanted = values_of(corpus), values_of(reference)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    gone, wanted_gone = (tombstones(Corpus(str(folder))).tolist() for folder in (corpus, reference))
    assert gone == wanted_gone
    assert _index(corpus) == _index(reference)


def _index(folder: Path) -> list[bytes] | None:
    """All vectors of the current generation, checked: its lists, part by part."""
    corpus = Corpus(str(folder))
    if current_generation(corpus, "pocket") is None:
        return None
    parts = open_index(corpus, "pocket").meta.parts
    return [corpus.read_bytes("index", "pocket", PARTS, part, LISTS) for part in parts]


def rows_of(corpus: Corpus, dataset: str) -> pa.Table:
    return pa.concat_tables(corpus.read_shard(dataset, shard) for shard in corpus.shards(dataset))


def _ids(folder: Path) -> set[int]:
    """The items that have a row in every dataset."""
    corpus = Corpus(str(folder))
    rows = (rows_of(corpus, dataset)["image_id"].to_pylist() for dataset in DATASETS)
    return set.intersection(*map(set, rows))


def _kill_and_run_again(zygote: Zygote, scene: Scene, kill: Kill, corpus: Path) -> str:
    """Returns the phase in which the command died."""
    if scene.before is not None:
        shutil.copytree(scene.before, corpus)
    killed = run(zygote, scene.words, corpus, kill)
    assert killed.code in (-signal.SIGKILL, -signal.SIGXFSZ, 0), said(corpus)
    wait_until_gone(killed.session, ORPHANED_S)
    phase = _place(_events(corpus)[-1]) if killed.code and _events(corpus) else "start or end"
    finished = shards_of(corpus)
    _index(corpus)
    if scene.before is not None:
        assert _ids(scene.before) - set(tombstones(Corpus(str(corpus))).tolist()) <= _ids(corpus)
    again = run(zygote, scene.words, corpus, Kill())
    assert again.code == 0, said(corpus)
    after = shards_of(corpus)
    assert [name for name in finished.keys() & after.keys() if finished[name] != after[name]] == []
    assert_same(corpus, scene.after)
    shutil.rmtree(corpus)
    return "torn " + phase if kill.torn_at is not None else phase


def kill_all(zygote: Zygote, scene: Scene, kills: Sequence[Kill], folder: Path) -> None:
    phases: Counter[str] = Counter()
    for number, kill in enumerate(kills):
        try:
            phases[_kill_and_run_again(zygote, scene, kill, folder / f"corpus-{number}")] += 1
        except BaseException as error:
            error.add_note(f"after {kill}, number {number}")
            raise
    print(f"\n{len(kills)} kills:", ", ".join(f"{count} x {phase}" for phase, count in phases.most_common()))
