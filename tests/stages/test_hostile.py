"""Files made to hurt, in the process that a night decodes in: each ends as pixels or as a reason."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from scripts.hostile import decode_all, mutants, originals, peak_mb
from stages.base import unpack_views
from stages.decode import DecodeConfig, DecodeImages, DecodeRun
from stages.isolate import Isolated, IsolationConfig
from stages.isolation.process import end_child
from stages.resize import Policy, ResizeConfig
from stages.schemas import Status
from tests.stages.bombs import BOMBS, not_images, textured
from tests.stages.codecs.samples import encode, picture

VIEWS = {"square": ResizeConfig(size=224), "fit": ResizeConfig(policy=Policy.FIT, size=384)}
SEED, TIMEOUT_S, MEMORY_LIMIT_MB = 41, 5.0, 1536
# What the process has before it decodes: Python, OpenCV, Arrow.
OWN_MB = 256


def _decode(files: Sequence[bytes]) -> pa.Table:
    """In a new process, so that its memory is that of these files."""
    end_child()
    run = DecodeRun(memory_limit_mb=MEMORY_LIMIT_MB)
    decode = partial(DecodeImages, DecodeConfig(), run, VIEWS)
    rows = pa.table(
        {
            "image_id": pa.array(range(len(files)), pa.int64()),
            "uri": pa.array([str(number) for number in range(len(files))]),
            "bytes": pa.array(files, pa.large_binary()),
            "status": pa.array(["ok"] * len(files)),
            "error": pa.array([None] * len(files), pa.string()),
        }
    )
    decoded = Isolated({"decode": decode}, IsolationConfig(TIMEOUT_S))(rows)
    assert max(map(peak_mb, psutil.Process().children())) < OWN_MB + MEMORY_LIMIT_MB
    return decoded


@pytest.mark.parametrize("heavy", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["light", "heavy"])
def test_decode_bombs_end_as_they_must_and_cost_their_neighbours_nothing(heavy: bool) -> None:
    good = encode(picture(), "PNG")
    bombs = {name: bomb for name, bomb in BOMBS.items() if bomb.heavy == heavy}
    decoded = _decode([data for bomb in bombs.values() for data in (bomb.make(), good)])
    status, error = decoded["status"].to_pylist(), decoded["error"].to_pylist()
    ended = dict(zip(bombs, status[::2], strict=True))
    assert {name: end for name, end in ended.items() if end not in bombs[name].ends} == {}
    assert [reason is None for reason in error] == [one == "ok" for one in status]
    assert set(status[1::2]) == {"ok"}
    neighbours = unpack_views(decoded, "square")[1::2]
    assert len({view.tobytes() for view in neighbours if view is not None}) == 1


def test_decode_files_that_are_no_images_are_reasons_and_run_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    files = not_images(str(mark))
    status = dict(zip(files, _decode(list(files.values()))["status"].to_pylist(), strict=True))
    markers = {"a jpeg marker only", "a png signature only"}
    assert {name for name, end in status.items() if end != "unsupported"} == markers
    assert {status[name] for name in markers} == {"truncated"}
    assert not mark.exists()


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_decode_mutants_of_images_are_pixels_or_reasons(count: int) -> None:
    end_child()
    samples = list(originals([textured(side, SEED + side) for side in (96, 160, 240, 400)]))
    tally = decode_all(mutants(samples, count, SEED), TIMEOUT_S, MEMORY_LIMIT_MB)
    ends = sum(tally.statuses.values(), start=Counter[str]())
    assert ends.total() == count
    assert ends.keys() <= set(Status)
    # Most damage is found: a PNG has checksums, and what is cut off is missing.
    assert ends["truncated"] + ends["unreadable"] > count / 3
    assert tally.peak_mb < OWN_MB + MEMORY_LIMIT_MB
