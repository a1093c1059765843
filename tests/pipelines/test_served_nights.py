"""Nights that ask a server: limits, budgets and crashes, in this process and on Ray."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.corpus import Corpus
from tests.pipelines.served_nights import PICTURES, SHARD_ROWS, captions, seen, tell, words, write_colours
from tests.stages.generators.chat_server import Asked, ChatServer, Said, chat, fault

ROOT = Path(__file__).parents[2]
QUESTION = "questions=[what is it?]"
SHARDS = PICTURES // SHARD_ROWS
_CHILD = f"""
import sys
from pipelines import cli, plan
plan.SHARD_ROWS = {SHARD_ROWS}
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "photos"
    write_colours(folder)
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.plan.SHARD_ROWS", SHARD_ROWS)


def _texts(corpus: Path) -> list[str]:
    return [row["caption"] for row in captions(corpus)]


TRUTH = [f"a picture of number {number}" for number in range(PICTURES)]


@pytest.mark.parametrize("shards_in_flight", [1, 3])
def test_night_with_a_served_captioner_has_a_caption_of_each_picture(
    photos: Path, tmp_path: Path, shards_in_flight: int
) -> None:
    with ChatServer(tell, hold=SHARD_ROWS * shards_in_flight) as server:
        flight = f"captioner.actors.shards_in_flight={shards_in_flight}"
        assert cli.main(words(photos, tmp_path / "corpus", server.url, "cluster=local", flight)) == 0
        assert server.peak == SHARD_ROWS * shards_in_flight
    assert _texts(tmp_path / "corpus") == TRUTH


def test_night_that_spends_its_budget_ends_in_a_line_and_goes_on_with_a_fresh_one(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, budget = tmp_path / "corpus", "captioner.how.server.max_tokens_total=800"
    with ChatServer(tell) as server:
        night = words(
            photos, corpus, server.url, "cluster=local", budget, "captioner.actors.shards_in_flight=1"
        )
        assert cli.main(night) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "max_tokens_total" in line
        assert "8 requests took 800 tokens" in line
        assert _texts(corpus) == TRUTH[:SHARD_ROWS]
        assert cli.main(night) == 1
        assert _texts(corpus) == TRUTH[: 2 * SHARD_ROWS]
        assert cli.main(night) == 0
        assert _texts(corpus) == TRUTH


def test_night_whose_server_is_gone_ends_in_a_line_and_keeps_finished_shards(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, limits = tmp_path / "corpus", "captioner.how.server.deadline_s=0.3"
    one = "captioner.actors.shards_in_flight=1"
    down = fault(503, "no engine")
    with ChatServer(lambda asked: tell(asked) if asked.number < SHARD_ROWS else down) as server:
        assert cli.main(words(photos, corpus, server.url, "cluster=local", limits, one)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert server.url in line
    assert _texts(corpus) == TRUTH[:SHARD_ROWS]


def test_night_keeps_the_key_out_of_everything_it_writes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "not-of-any-known-shape-4711"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    corpus = tmp_path / "corpus"
    with ChatServer(lambda asked: tell(asked) if seen(asked) else fault(400, f"no {key}")) as server:
        assert cli.main(words(photos, corpus, server.url, "cluster=local")) == 0
        assert server.asked[0].headers["authorization"] == f"Bearer {key}"
    output = capsys.readouterr()
    written = b"".join(path.read_bytes() for path in corpus.rglob("*") if path.is_file())
    assert [row["status"] for row in captions(corpus)].count("failed") == 1
    assert key.encode() not in written
    assert key not in output.out + output.err


def test_night_whose_answers_come_from_captions_asks_a_model_of_text(photos: Path, tmp_path: Path) -> None:
    corpus, asked_of_text = tmp_path / "corpus", []

    def script(asked: Asked) -> Said:
        if isinstance(asked.body["messages"][0]["content"], list):
            return tell(asked)
        asked_of_text.append(asked.prompt)
        return chat("<think>hm</think>a number")

    with ChatServer(script) as server:
        answerer = ["answerer=openai_caption", f"answerer.how.server.url={server.url}"]
        assert cli.main(words(photos, corpus, server.url, "cluster=local", *answerer, QUESTION)) == 0
    assert sorted(asked_of_text) == sorted(
        f"[file name]: image\n[file content begin]\n{text}\n[file content end]\nwhat is it?" for text in TRUTH
    )
    found = Corpus(str(corpus))
    for shard in found.shards("answers/openai_caption"):
        rows = found.read_shard("answers/openai_caption", shard).to_pylist()
        assert {(row["answer"], row["thinking"]) for row in rows} == {("a number", "hm")}


def test_night_whose_backend_takes_one_shard_at_a_time_refuses_several(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in ("captioner", "encoder"):
        night = ["nightly", f"source.path={photos}", f"corpus={tmp_path / 'corpus'}"]
        assert cli.main([*night, f"{step}.actors.shards_in_flight=2"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "shards_in_flight must be 1" in line
    assert not (tmp_path / "corpus").exists()


def test_night_killed_while_it_asks_loses_the_shards_in_flight_at_most(photos: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    with ChatServer(lambda asked: tell(asked, after_s=0.1)) as server:
        night = words(photos, corpus, server.url, "cluster=local", "captioner.actors.shards_in_flight=1")
        command = [sys.executable, "-c", _CHILD, *night, "captioner.how.server.max_concurrency=1"]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
        while len(server.asked) < SHARD_ROWS + 3:  # in the second shard
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = _texts(corpus)
        assert kept == TRUTH[:SHARD_ROWS]
        before = len(server.asked)
        assert cli.main([*night, "steal_lock=true"]) == 0
        assert sorted(seen(asked) for asked in server.asked[before:]) == list(range(SHARD_ROWS, PICTURES))
    assert _texts(corpus) == TRUTH


@pytest.mark.parametrize("shards_in_flight", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_night_interrupted_while_it_asks_ends_in_one_line(
    photos: Path, tmp_path: Path, shards_in_flight: int
) -> None:
    with ChatServer(lambda asked: tell(asked, after_s=600)) as server:
        flight = f"captioner.actors.shards_in_flight={shards_in_flight}"
        night = words(photos, tmp_path / "corpus", server.url, "cluster=local", flight)
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, *night], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        while not server.asked:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert len(said.splitlines()) == 1


@pytest.mark.ray
def test_night_on_ray_has_the_same_captions_with_several_shards_in_flight(
    ray_cluster: None, photos: Path, tmp_path: Path
) -> None:
    flight = f"captioner.actors.shards_in_flight={SHARDS}"
    with ChatServer(tell) as server:
        assert cli.main(words(photos, tmp_path / "local", server.url, "cluster=local")) == 0
    with ChatServer(tell, hold=PICTURES) as server:
        assert cli.main(words(photos, tmp_path / "ray", server.url, "cluster=ray", flight)) == 0
        assert len(server.asked) == PICTURES
        assert server.peak == PICTURES
    assert captions(tmp_path / "ray") == captions(tmp_path / "local")


@pytest.mark.ray
def test_night_on_ray_shares_rate_and_budget_among_its_actors(
    ray_cluster: None, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    limits = ("captioner.how.server.max_tokens_total=1200", "captioner.how.server.requests_per_s=10")
    with ChatServer(tell) as server:
        night = words(photos, corpus, server.url, "cluster=ray", "captioner.actors.count=3", *limits)
        assert cli.main(night) == 1
        assert "requests took" in capsys.readouterr().err
        assert len(server.asked) <= 12
        times = [asked.at for asked in server.asked]
    for start in times:
        assert sum(start <= at < start + 0.5 for at in times) <= 8  # 6, and two for a busy machine
