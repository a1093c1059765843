"""From a prompt to the tokens of one model, with gaps where the pictures' own tokens go."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.generators.protocol import Turn


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt. `pieces` are its tokens before, between and after the marks of the pictures.

    Where a text holds no such mark (BLIP), there is one piece.
    """

    text: str
    pieces: tuple[tuple[int, ...], ...]
    special_tokens: bool  # whether the tokenizer adds those that begin and end a text

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def around(self, pictures: Sequence[Sequence[int]]) -> list[int]:
        """The tokens of the whole. Raises: ValueError where there is not one mark for each picture."""
        return [*self.start(pictures), *self.pieces[-1]]

    def start(self, pictures: Sequence[Sequence[int]]) -> list[int]:
        """The tokens up to the end of the last picture. Raises: ValueError as `around`."""
        if len(self.pieces) != len(pictures) + 1:
            raise ValueError(f"{len(self.pieces) - 1} marks of a picture in the prompt, not {len(pictures)}")
        pairs = zip(self.pieces, pictures, strict=False)
        return [token for piece, picture in pairs for token in (*piece, *picture)]

    def inside(self, tokens: Sequence[int]) -> tuple[int, ...] | None:
        """The one picture's tokens out of those of the whole; None if around them is not this prompt."""
        if len(self.pieces) != 2:
            return None
        start, end = len(self.pieces[0]), len(tokens) - len(self.pieces[1])
        picture = tuple(tokens[start:end])
        return picture if picture and self.around([picture]) == list(tokens) else None


class PromptRenderer:
    """Renders and tokenises each prompt once: a shard asks the same few of hundreds of pictures."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._prompts: dict[tuple[str, tuple[Turn, ...], int], Prompt] = {}
        special = sorted(_special_tokens(processor.tokenizer), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")

    def __call__(self, prompt: str, turns: tuple[Turn, ...] = (), images: int = 1) -> Prompt:
        key = (prompt, turns, images)
        if key not in self._prompts:
            self._prompts[key] = self._render(prompt, turns, images)
        return self._prompts[key]

    def forget(self) -> None:
        """Prompts that come once, as the questions of an evaluation do, would pile up."""
        self._prompts.clear()

    def _render(self, prompt: str, turns: tuple[Turn, ...], images: int) -> Prompt:
        tokenizer = self._processor.tokenizer
        text = self._chat(prompt, turns, images) if self._processor.chat_template else prompt
        # A template may write the first token itself; the tokenizer must not write it again.
        special = not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))
        tokens = list(tokenizer(text, add_special_tokens=special)["input_ids"])
        mark = getattr(self._processor, "image_token_id", None)
        return Prompt(text, _split(tokens, mark), special)

    def _chat(self, prompt: str, turns: tuple[Turn, ...], images: int) -> str:
        asked = [*(turn.prompt for turn in turns), prompt]
        said = [("user", asked[0])]
        for turn, following in zip(turns, asked[1:], strict=True):
            said += [("assistant", turn.text), ("user", following)]
        messages = [{"role": role, "content": [self._part(text)]} for role, text in said]
        messages[0]["content"] = [*([{"type": "image"}] * images), *messages[0]["content"]]
        rendered: str = self._processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return rendered

    def _part(self, text: str) -> Mapping[str, str]:
        """A text is data: a role, an end or a picture that is spelled out in it is none."""
        return {"type": "text", "text": self._special.sub(_broken, text)}


def _special_tokens(tokenizer: Any) -> set[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {token for token in added | set(tokenizer.all_special_tokens) if len(token) > 1}


def _broken(special: re.Match[str]) -> str:
    return f"{special[0][0]} {special[0][1:]}"


def _split(tokens: Sequence[int], mark: int | None) -> tuple[tuple[int, ...], ...]:
    pieces: list[tuple[int, ...]] = []
    start = 0
    for position, token in enumerate(tokens):
        if token == mark:
            pieces.append(tuple(tokens[start:position]))
            start = position + 1
    return (*pieces, tuple(tokens[start:]))
