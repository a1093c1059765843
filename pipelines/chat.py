"""`darkroom chat`: questions from a terminal or a pipe, answers as they are written."""

import io
import sys
import time
from collections.abc import Generator
from contextlib import closing

from rich.console import Console
from rich.text import Text

from pipelines import interrupt
from pipelines.conversation import Conversation, PictureError
from pipelines.legible import legible
from pipelines.text_jobs import ChatConfig
from stages.generators.protocol import GenerationError

_HELP = "/image FILE, /caption, /reset, /quit; Ctrl-C stops an answer, and once more the conversation"


def chat(config: ChatConfig, screen: Console) -> int:
    """Answers until the input ends. Returns 0, or 130 where Ctrl-C ended it.

    On a terminal the first Ctrl-C stops an answer, and a second before the next question the conversation; a
    pipe ends at the first. Raises, before the first question: PictureError, ModelLoadError, ConfigError.
    """
    told = Console(stderr=True, highlight=False, markup=False)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a terminal may send any bytes
    talk = Conversation(config)
    if sys.stdin.isatty() and screen.is_terminal:
        told.print(_HELP, style="dim")
        return _converse(talk, told)
    for line in sys.stdin:
        if not _answer(talk, line.strip(), told):
            break
    return 0


def _converse(talk: Conversation, told: Console) -> int:
    import readline  # noqa: F401  # gives `input` a history and an editor

    interrupted = False
    while True:
        try:
            line = input("> ").strip()
            interrupted = False
            if not _answer(talk, line, told):
                return 0
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            if interrupted:
                return interrupt.EXIT_CODE
            interrupted = True
            told.print("\nstopped; Ctrl-C again ends", style="dim")


def _answer(talk: Conversation, line: str, told: Console) -> bool:
    """Does what a line asks for; False where it asks to end. What goes wrong is told, and no end."""
    command, _, rest = line.partition(" ")
    try:
        match command:
            case "":
                pass
            case "/quit":
                return False
            case "/reset":
                talk.reset()
            case "/image":
                talk.show(rest.strip())
            case "/caption":
                _say(talk, talk.caption(), told)
            case _ if command.startswith("/"):
                _tell(told, f"unknown command {command}: {_HELP}")
            case _:
                _say(talk, talk.question(line), told)
    except (GenerationError, PictureError) as error:
        _tell(told, str(error))
    return True


def _say(talk: Conversation, parts: Generator[str], told: Console) -> None:
    start = time.perf_counter()
    try:
        with closing(parts):
            for part in parts:
                print(_safe(part), end="", flush=True)
    finally:
        print(flush=True)
    if talk.thinking:
        _tell(told, f"it thought: {talk.thinking}")
    if talk.fault:
        _tell(told, talk.fault)
    if told.is_terminal:
        told.print(f"{time.perf_counter() - start:.1f} s", style="dim")


def _safe(text: str) -> str:
    """Without what could steer a terminal; lines stay lines."""
    return "\n".join(legible(line, max_chars=sys.maxsize) for line in text.split("\n"))


def _tell(told: Console, text: str) -> None:
    told.print(Text(legible(text)), style="dim", soft_wrap=True)
