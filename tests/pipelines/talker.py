"""`darkroom chat` with a model that writes what it is told, without end if need be: run as a process."""

import fcntl
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pipelines import cli, conversation
from stages.generators.protocol import GenerationError, Request, Result


class Talker:
    """Says how many turns came before, and how the last answer ended; then what the prompt is about."""

    notes: Sequence[str] = ()

    def generate(self, requests: Sequence[Request], /) -> list[Result]:
        raise NotImplementedError

    def stream(self, request: Request, /) -> Iterator[str]:
        last = request.turns[-1].text[-5:] if request.turns else "none"
        yield f"{len(request.images)} images, {len(request.turns)} turns, last {last}. "
        match request.prompt:
            case "endless":
                while True:
                    time.sleep(0.01)
                    yield " word"
            case "steer":
                yield "\x1b[31mred\x9b31m\u202e"
            case "fail":
                raise GenerationError("the model is gone")


def _load(config: Any, run: Any) -> Talker:
    return Talker()


if __name__ == "__main__":
    if sys.stdin.isatty():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C of this terminal reaches this process
    setattr(conversation, "load_generator", _load)  # noqa: B010  the module only borrows the name
    sys.exit(cli.main(["chat", *sys.argv[1:]]))
