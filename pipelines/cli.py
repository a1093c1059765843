"""`darkroom PIPELINE key=value …`"""

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pipelines import interrupt, terminal
from pipelines.commands import COMMANDS, FAILED
from pipelines.config import PIPELINES, ConfigError, load, menu
from pipelines.conversation import PictureError
from pipelines.corpus import CorpusError
from pipelines.index.rates import RatesError
from pipelines.interrupt import interruptible
from pipelines.redact import redact_text
from stages.checkpoints import ModelLoadError
from stages.embed import EmbedError
from stages.generators.fusion.data import FusionError
from stages.generators.protocol import GenerationError
from stages.index.blas import FaissUnavailable
from stages.index.config import IndexConfigError
from stages.index.damage import IndexDamaged
from stages.index.vectors import VectorError
from stages.isolation.process import IsolationError
from stages.stores import check_reachable

WRONG_CONFIGURATION, INTERRUPTED = 2, interrupt.EXIT_CODE

_RESUME = "interrupted; the same command goes on where this one stopped"
_NOTHING_DONE = "interrupted; nothing was written"
_WRITES_NOTHING = ("preview", "search")

# What ends a run in one line; anything else is a fault of Darkroom's and shows its traceback.
_FAILURES = (
    CorpusError,
    EmbedError,
    FaissUnavailable,
    FusionError,
    GenerationError,
    IndexDamaged,
    IsolationError,
    ModelLoadError,
    OSError,
    PictureError,
    VectorError,
)

_USAGE = """darkroom PIPELINE key=value …

  darkroom nightly source.path=DIR corpus=DIR          develop what is new: captions, index, report
  darkroom chat image=FILE captioner=NAME              try a generator: questions on a terminal or from a pipe
  darkroom preview source.path=DIR captioners=A,B n=8  generators on a random handful, side by side
  darkroom search corpus=DIR text="two red circles"    or image=FILE; k=10, where="width > 1024"
  darkroom search corpus=DIR queries=FILE out=FILE     the hits of each query of a Parquet file
  darkroom index corpus=DIR                            an index over its embeddings; merge=true
  darkroom index neighbours corpus=DIR k=10            for every image its nearest others
  darkroom index plan vectors=1e9 dim=768 cores=64     hours, memory and disk of a build, from measured rates
  darkroom evaluate task=captions corpus=DIR captions=NAME references=FILE    scores; vqa, retrieval, …
  darkroom describe corpus=DIR                         what a corpus holds; format=json
  darkroom compact corpus=DIR                          few big files, without what is gone; dry_run=true
  darkroom verify corpus=DIR                           reads every byte again; repair=true sets damage aside
  darkroom forget corpus=DIR uris=FILE                 takes images down; or ids=FILE, sha256=FILE
  darkroom export corpus=DIR to=DIR format=FORMAT      webdataset, hf, clip_retrieval, faiss, coco, jsonl
  darkroom fuse vision=… llm=… data=FILE out=DIR       trains the projector of captioner=feature_prefix

  darkroom PIPELINE --help                             every key of a pipeline and what it means"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0 when all went well, 1 when it failed, 2 for a wrong configuration,
    3 when it is done and too many images were rejected or recall is too low, 130 when it was interrupted."""
    try:
        code = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has seen enough (`| head -1`). Python would complain once more as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    return code


def _dispatch(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_USAGE)
        return 0 if words else WRONG_CONFIGURATION
    pipeline, overrides = _command(words)
    if pipeline not in PIPELINES:
        allowed = ", ".join(name.replace("_", " ") for name in PIPELINES)
        return _complain(f"unknown pipeline {pipeline}, allowed: {allowed}", WRONG_CONFIGURATION)
    if {"-h", "--help"} & set(overrides):
        print(menu(pipeline))
        return 0
    return _run(pipeline, overrides)


def _command(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The pipeline, of one word or two, and what it is asked."""
    two = "_".join(words[:2])
    if two in PIPELINES:
        return two, words[2:]
    bare = len(words) > 1 and words[0] in PIPELINES and words[1].replace("_", "").isalpha()
    return (" ".join(words[:2]), ()) if bare else (words[0], words[1:])


def _run(pipeline: str, overrides: Sequence[str]) -> int:
    screen = terminal.console()
    try:
        with _interruptible(pipeline):
            config = load(pipeline, overrides)
            _check_places(config)
            return COMMANDS[pipeline](config, screen)
    except (ConfigError, IndexConfigError, RatesError) as error:
        return _complain(str(error), WRONG_CONFIGURATION)
    except BrokenPipeError:
        raise
    except _FAILURES as error:
        return _complain(str(error), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _check_places(config: Any) -> None:
    """Whether the buckets that are named are there and answer. Raises: ConfigError, OSError."""
    source = getattr(config, "source", None)
    for key, place in (
        ("corpus", getattr(config, "corpus", None)),
        ("source.path", getattr(source, "path", None)),
    ):
        try:
            if isinstance(place, str):
                check_reachable(place)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error


def _interruptible(pipeline: str) -> AbstractContextManager[None]:
    if pipeline == "chat":
        return nullcontext()  # Ctrl-C is for an answer there, and for the model alone
    return interruptible(f"darkroom: {_NOTHING_DONE if pipeline in _WRITES_NOTHING else _RESUME}")


def _complain(text: str, code: int) -> int:
    print(f"darkroom: {redact_text(text)}", file=sys.stderr)
    return code
