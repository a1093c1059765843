"""From a prompt to the tokens of one model, with a gap where the picture's own tokens go."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt. `before` and `after` are its tokens around the mark of the picture.

    Where a text holds no such mark (BLIP), all of its tokens are in `after`.
    """

    text: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    special_tokens: bool  # whether the tokenizer adds those that begin and end a text

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def around(self, picture: Sequence[int]) -> list[int]:
        return [*self.before, *picture, *self.after]

    def inside(self, tokens: Sequence[int]) -> tuple[int, ...] | None:
        """The picture's tokens out of those of the whole; None if what surrounds them is not this prompt."""
        start, end = len(self.before), len(tokens) - len(self.after)
        picture = tuple(tokens[start:end])
        return picture if picture and self.around(picture) == list(tokens) else None


class PromptRenderer:
    """Renders and tokenises each prompt once: a shard asks the same few of hundreds of pictures."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._prompts: dict[str, Prompt] = {}

    def __call__(self, prompt: str) -> Prompt:
        if prompt not in self._prompts:
            self._prompts[prompt] = self._render(prompt)
        return self._prompts[prompt]

    def forget(self) -> None:
        """Prompts that come once, as the questions of an evaluation do, would pile up."""
        self._prompts.clear()

    def _render(self, prompt: str) -> Prompt:
        tokenizer = self._processor.tokenizer
        text = self._chat(prompt) if self._processor.chat_template else prompt
        # A template may write the first token itself; the tokenizer must not write it again.
        special = not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))
        tokens = list(tokenizer(text, add_special_tokens=special)["input_ids"])
        mark = getattr(self._processor, "image_token_id", None)
        gap = tokens.index(mark) if mark in tokens else -1
        return Prompt(text, tuple(tokens[: max(gap, 0)]), tuple(tokens[gap + 1 :]), special)

    def _chat(self, prompt: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        rendered: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return rendered
