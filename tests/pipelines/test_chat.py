"""`darkroom chat` as a process: on a terminal and on a pipe."""

import io
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from torch.nn.modules.module import register_module_forward_hook
from transformers import CLIPVisionModel

from pipelines import cli
from pipelines.conversation import Conversation, read_pictures
from pipelines.jobs import Captioner, Decoding
from pipelines.text_jobs import ChatConfig
from stages.base import unpack_views
from stages.caption import CaptionConfig, caption_view
from stages.checkpoints import Device
from stages.decode import DecodeConfig, DecodeImages, DecodeRun
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.pocket import language
from stages.pocket.corpus import write_pictures
from stages.sources.config import SourceConfig, SourceRun
from stages.sources.folder import ReadFolder
from tests.stages.generators.tiny_models import save_model

DEADLINE_S = 60.0
CTRL_C, CTRL_D = "\x03", "\x04"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = write_pictures(tmp_path_factory.mktemp("a folder, with a comma"), 1, seed=5)
    return written[0].path


class Terminal:
    """The other side of a terminal that the talker is on."""

    def __init__(self, picture: Path) -> None:
        self._fd, inside = pty.openpty()
        command = [sys.executable, "-m", "tests.pipelines.talker", f"image={picture}"]
        self.process = subprocess.Popen(
            command, stdin=inside, stdout=inside, stderr=inside, start_new_session=True, env=_environment()
        )
        os.close(inside)
        self._unread = ""

    def expect(self, text: str) -> str:
        """Reads on until the text comes, and returns what came before it."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self._unread:
            ready, _, _ = select.select([self._fd], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"no {text!r} in {self._unread!r}"
            self._unread += os.read(self._fd, 4096).decode()
        before, _, self._unread = self._unread.partition(text)
        return before

    def send(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def press_until_it_ends(self, key: str) -> int:
        """Presses again each second: CPython's readline misses a signal between its prompt and its select."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            self.send(key)
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(1)
        raise AssertionError(f"{key!r} does not end it")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


@contextmanager
def terminal(picture: Path) -> Iterator[Terminal]:
    there = Terminal(picture)
    try:
        there.expect("> ")
        yield there
    finally:
        there.close()


def _environment() -> dict[str, str]:
    return {**os.environ, "TERM": "dumb", "PYTHONPATH": str(Path(__file__).parents[2])}


def piped(picture: Path, lines: str, *words: str, talker: bool = True) -> subprocess.CompletedProcess[str]:
    main = (
        ["-m", "tests.pipelines.talker"]
        if talker
        else ["-c", "from pipelines import cli; cli.main()", "chat"]
    )
    command = [sys.executable, *main, f"image={picture}", *words]
    return subprocess.run(
        command, input=lines, capture_output=True, text=True, timeout=DEADLINE_S, env=_environment()
    )


def test_chat_ctrl_c_stops_an_answer_and_keeps_what_was_said(picture: Path) -> None:
    with terminal(picture) as there:
        there.send("endless\n")
        there.expect("word word")
        there.send(CTRL_C)
        there.expect("> ")
        there.send("hello\n")
        there.expect("1 images, 1 turns, last  word.")
        there.expect("> ")
        there.send(CTRL_D)
        assert there.process.wait(DEADLINE_S) == 0


def test_chat_second_ctrl_c_ends_it(picture: Path) -> None:
    with terminal(picture) as there:
        there.send("endless\n")
        there.expect("word word")
        there.send(CTRL_C)
        there.expect("> ")
        assert there.press_until_it_ends(CTRL_C) == 130


def test_chat_pipe_answers_line_by_line_and_steers_no_terminal(picture: Path) -> None:
    lines = [
        "hello",
        "",
        "steer",
        "fail",
        "/reset",
        "/nonsense",
        "/image /none.png",
        "hello",
        "/quit",
        "hello",
    ]
    done = piped(picture, "\n".join(lines))
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "1 images, 0 turns, last none. ",
        "1 images, 1 turns, last none.. ␛[31mred⟨009B⟩31m⟨202E⟩",
        "1 images, 2 turns, last ⟨009B⟩31m⟨202E⟩. ",
        "1 images, 0 turns, last none. ",
    ]
    assert "the model is gone" in done.stderr
    assert "/nonsense" in done.stderr
    assert "none.png cannot be read: No such file" in done.stderr


def test_chat_several_pictures_are_shown_together(picture: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    cv2.imwrite(str(other), np.full((40, 60, 3), 90, np.uint8))
    several = f"{other},{other}"
    done = piped(picture, f"hello\n/image {several}\nhello\n/image {picture}\nhello\n")
    assert [line.split(", last")[0] for line in done.stdout.splitlines()] == [
        f"{count} images, 0 turns" for count in (1, 2, 1)
    ]


def test_chat_pocket_captioner_answers_about_each_picture(
    picture: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_pictures(tmp_path, 3, seed=9)[2]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"/caption\n/image {other.path}\n/caption\n/caption"))
    assert cli.main(["chat", f"image={picture}"]) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[0] != said[1] == said[2]
    assert said[1] == language.captions(other.scene)[0]


def test_chat_with_a_model_that_thinks_tells_its_thoughts_beside_the_answer(
    picture: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("how many bars are there?"))
    assert cli.main(["chat", f"image={picture}", "captioner=pocket_reasoner"]) == 0
    (answer,), (thoughts,) = (said.splitlines() for said in capfd.readouterr())
    assert "thought" in thoughts
    assert "think" not in answer
    assert len(answer) < len(thoughts)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["image=/none.png"], 1, "/none.png cannot be read: No such file"),
        (["image=README.md"], 1, "README.md cannot be shown: the first bytes"),
        (["image=README.md", "model=/none"], 1, "model '/none' does not exist"),
        (["image=README.md", "captioner=none"], 2, "captioner must be set"),
        (["image=README.md", "captioner=openai_caption"], 2, "it cannot chat"),
        ([], 2, "image must be set"),
    ],
)
def test_chat_that_cannot_start_says_why_in_one_line(
    words: list[str], code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["chat", *words]) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line


def test_conversation_shows_the_model_the_pixels_of_a_night(picture: Path) -> None:
    what = CaptionConfig(GeneratorConfig("pocket:captioner"))
    (shown,) = read_pictures([str(picture)], Decoding(), caption_view(what))
    rows = ReadFolder(SourceConfig(str(picture.parent)), SourceRun())(
        pa.table({"image_id": pa.array([0], pa.int64()), "uri": [picture.name]})
    )
    decoded = DecodeImages(DecodeConfig(), DecodeRun(), {"night": caption_view(what)})(rows)
    (night,) = unpack_views(decoded, "night")
    assert night is not None
    assert np.array_equal(shown, night)


def test_conversation_has_a_picture_looked_at_once_for_all_its_questions(
    picture: Path, tmp_path: Path
) -> None:
    folder = save_model(tmp_path, "llava")
    generator = GeneratorConfig(str(folder), max_new_tokens=4)
    captioner = Captioner("tiny", CaptionConfig(generator), GeneratorRun(device=Device.CPU, threads=1))
    talk = Conversation(ChatConfig(str(picture), captioner))
    looks: list[str] = []

    def look(module: Any, args: Any, output: Any) -> None:
        if isinstance(module, CLIPVisionModel):
            looks.append("again")

    with ExitStack() as stack:
        stack.callback(register_module_forward_hook(look).remove)
        for question in ("what is it?", "how many objects are there?", "what is it?"):
            list(talk.question(question))
    assert len(looks) == 1
