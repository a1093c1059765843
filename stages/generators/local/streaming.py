"""A text told while it is made."""

import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from stages.checkpoints import ModelLoadError
from stages.generators.protocol import GenerationError

if TYPE_CHECKING:
    import torch


def stream_text(tokenizer: Any, write: Callable[..., object]) -> Generator[str, None, None]:
    """Parts of one text, whole words where the script has spaces.

    `write` runs in a thread of its own and hands the options that it is given on to a model's `generate`.
    When the iterator is closed or interrupted, the thread ends with the token that it is at.
    Raises: GenerationError, and what `write` raises as one.
    """
    from transformers import TextIteratorStreamer

    parts = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    stop, failures = _Stop(), list[Exception]()

    def work() -> None:
        try:
            write(streamer=parts, stopping_criteria=[stop])
        except Exception as error:  # models raise whatever they like
            failures.append(error)
            parts.end()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield from (part for part in parts if part)
    finally:
        stop.asked.set()
        thread.join()
    if failures:
        raise _as_generation_error(failures[0]) from failures[0]


class _Stop:
    """A stopping criterion: ends all rows once it is asked to."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __call__(self, input_ids: "torch.Tensor", scores: Any, **options: Any) -> "torch.Tensor":
        import torch

        return torch.full((len(input_ids),), self.asked.is_set(), device=input_ids.device)


def _as_generation_error(error: Exception) -> Exception:
    if isinstance(error, (GenerationError, ModelLoadError)):
        return error
    lines = str(error).strip().splitlines()
    return GenerationError(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
