"""Networks that fail and busy servers: what passes is tried again, what stays ends a run in one line."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines import cli
from pipelines.corpus import Corpus
from pipelines.files import Files
from stages.pocket.corpus import write_pictures
from tests.pipelines.buckets import Bucket, new_bucket, server  # noqa: F401
from tests.pipelines.faults import Fault, Faults, proxy_before
from tests.pipelines.test_buckets import NIGHT, values
from tests.pipelines.zygote import Order, Zygote

pytestmark = pytest.mark.slow

PICTURES, SEED, SHARD_ROWS = 8, 31, 3
KILLS = 8
WRITES = ("PUT", "POST", "DELETE")


@pytest.fixture(scope="module")
def proxy(server: int) -> Iterator[Faults]:  # noqa: F811
    with proxy_before(server) as faults:
        yield faults


@pytest.fixture
def faults(proxy: Faults) -> Iterator[Faults]:
    yield proxy
    proxy.reset()


@pytest.fixture(scope="module")
def bucket(proxy: Faults) -> Bucket:
    return new_bucket(proxy.port, "faulty")


@pytest.fixture
def files(bucket: Bucket, request: pytest.FixtureRequest) -> Files:
    return Files(bucket.url(request.node.originalname))


@pytest.mark.parametrize("fault", [Fault.SLOW_DOWN, Fault.RESET, Fault.CUT])
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "GET /faulty.list"])
def test_error_that_passes_is_tried_again(files: Files, faults: Faults, fault: Fault, method: str) -> None:
    faults.fail(f"^{method}", fault, 2)
    files.write_bytes(b"data" * 1000, "name")
    assert files.read_bytes("name") == b"data" * 1000
    assert [info.base_name for info in files.entries()] == ["name"]


@pytest.mark.parametrize(
    "request_denied",
    ["PUT .*partNumber=2", "PUT .*partNumber=3", "POST .*uploads", "POST .*uploadId", "PUT .*small"],
)
@pytest.mark.parametrize("times", [1, 1000])
def test_upload_that_is_denied_on_the_way_leaves_nothing_under_the_name(
    files: Files, faults: Faults, request_denied: str, times: int
) -> None:
    faults.fail(request_denied, Fault.DENIED, times)
    name, size = ("small", 100) if "small" in request_denied else ("large", 25 << 20)
    files.delete(name)
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        files.write_bytes(bytes(size), name)
    faults.reset()
    assert not files.exists(name)


def _words(bucket: Bucket, corpus: str) -> list[str]:
    return [*NIGHT, f"source.path={bucket.url('photos')}", f"corpus={bucket.url(corpus)}"]


@pytest.fixture(scope="module")
def wanted(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What an undisturbed night leaves."""
    photos = tmp_path_factory.mktemp("faulty")
    write_pictures(photos, PICTURES, SEED)
    bucket.put(photos, "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.SHARD_ROWS", SHARD_ROWS)
        assert cli.main(["nightly", *_words(bucket, "undisturbed")]) == 0
        yield values(Corpus(bucket.url("undisturbed")))


def test_nightly_beside_errors_that_pass_leaves_what_it_leaves_without(
    bucket: Bucket, faults: Faults, wanted: dict[str, Any]
) -> None:
    for pattern in ("^GET .*photos/", "^HEAD .*photos/", "^PUT .*items/", "^GET .*list-type", "^GET .*LOCK"):
        faults.fail(pattern, Fault.SLOW_DOWN, 2)
        faults.fail(pattern, Fault.RESET, 1)
    assert cli.main(["nightly", *_words(bucket, "busy")]) == 0
    assert values(Corpus(bucket.url("busy"))) == wanted


def test_nightly_that_may_not_write_ends_in_one_line_and_goes_on_when_it_may(
    bucket: Bucket, faults: Faults, wanted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    faults.fail("^PUT .*captions/pocket/shard-0000000001", Fault.DENIED, 1000)
    assert cli.main(["nightly", *_words(bucket, "denied")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("darkroom: ")
    assert "ACCESS_DENIED" in last
    faults.reset()
    assert cli.main(["nightly", *_words(bucket, "denied")]) == 0
    assert values(Corpus(bucket.url("denied"))) == wanted


def test_verify_of_a_bucket_that_gives_no_answer_repairs_nothing(
    bucket: Bucket, faults: Faults, wanted: dict[str, Any]
) -> None:
    faults.fail("^GET .*undisturbed/items/shard", Fault.DENIED, 1000)
    assert cli.main(["verify", f"corpus={bucket.url('undisturbed')}", "repair=true"]) == 1
    faults.reset()
    assert cli.main(["verify", f"corpus={bucket.url('undisturbed')}"]) == 0


# Killed


class _Killer:
    """Kills the command at its n-th request that changes something; `lost`: the server does not get it."""

    def __init__(self, zygote: Zygote, number: int, lost: bool) -> None:
        self._parent = psutil.Process(zygote.pid)
        self._left, self._lost, self._lock = number, lost, threading.Lock()

    def __call__(self, request: str) -> bool:
        with self._lock:
            if not request.startswith(WRITES):
                return False
            self._left -= 1
            if self._left:
                return self._left < 0 and self._lost
            for child in self._parent.children():
                os.kill(child.pid, signal.SIGKILL)
            return self._lost


def _run(zygote: Zygote, words: list[str], tmp_path: Path) -> int:
    trace, output = tmp_path / "trace", tmp_path / "output"
    return zygote.run(Order(words, str(tmp_path / "nothing"), str(trace), str(output), SHARD_ROWS)).code


def _nightly(bucket: Bucket, corpus: str) -> list[str]:
    return ["nightly", *_words(bucket, corpus)]


def _compact(bucket: Bucket, corpus: str) -> list[str]:
    return ["compact", f"corpus={bucket.url(corpus)}"]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "before"), [(_nightly, None), (_compact, _nightly)])
def test_command_that_is_killed_at_any_write_goes_on_to_what_an_undisturbed_one_leaves(
    bucket: Bucket,
    faults: Faults,
    wanted: dict[str, Any],
    tmp_path: Path,
    command: Callable[[Bucket, str], list[str]],
    before: Callable[[Bucket, str], list[str]] | None,
) -> None:
    with Zygote() as zygote:

        def prepared(name: str) -> str:
            corpus = f"{command.__name__}-{name}"
            assert before is None or _run(zygote, before(bucket, corpus), tmp_path) == 0
            faults.reset()
            return corpus

        assert _run(zygote, command(bucket, prepared("counted")), tmp_path) == 0
        writes = sum(request.startswith(WRITES) for request in faults.seen)
        for turn in range(KILLS):
            corpus = prepared(str(turn))
            faults.before = _Killer(zygote, 1 + turn * writes // KILLS, lost=turn % 2 == 0)
            assert _run(zygote, command(bucket, corpus), tmp_path) == -signal.SIGKILL
            faults.reset()
            assert _run(zygote, command(bucket, corpus), tmp_path) == 0, (tmp_path / "output").read_text()
            assert values(Corpus(bucket.url(corpus))) == wanted
            assert cli.main(["verify", f"corpus={bucket.url(corpus)}"]) == 0
