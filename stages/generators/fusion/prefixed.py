"""Prompts of a text model in which words of its embedding space stand for the pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from stages.generators.local.loading import LoadedModel
from stages.generators.local.prompts import Prompt
from stages.generators.local.text_model import rendered
from stages.generators.protocol import Turn

if TYPE_CHECKING:
    import torch

# A character that no text holds (Unicode keeps it free for private use) marks where a picture goes.
_GAP = "\ue000"

Pieces: TypeAlias = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Told:
    """A prompt around one picture, and the text behind it: the last `written` tokens of `after`."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    written: int


class Prefixed:
    """Pictures come first, one after the other, then a line break, then the prompt."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded, self._tokenizer = loaded, loaded.processor.tokenizer
        self._words = loaded.model.get_input_embeddings()

    def prompt(self, prompt: str, turns: Sequence[Turn], pictures: int) -> Prompt:
        """One piece more than pictures. Raises: GenerationError for turns without a chat template."""
        first, *later = [*(turn.prompt for turn in turns), prompt]
        gaps = _GAP * pictures + "\n" * bool(pictures)
        asked = [gaps + first.replace(_GAP, ""), *(one.replace(_GAP, "") for one in later)]
        opened = [Turn(one, turn.text.replace(_GAP, "")) for one, turn in zip(asked, turns, strict=False)]
        text, special = rendered(self._loaded, asked[-1], opened)
        start, *rest = text.split(_GAP)
        pieces = [self._tokens(start, special), *(self._tokens(part) for part in rest)]
        return Prompt(text, tuple(pieces), special)

    def told(self, prompt: str, text: str) -> Told:
        """A prompt about one picture, the text to learn, and the token that ends it."""
        before, after = self.prompt(prompt, (), 1).pieces
        written = (*self._tokens(text), self._tokenizer.eos_token_id)
        return Told(before, (*after, *written), len(written))

    def padded(
        self, rows: Sequence[tuple[Pieces, Sequence["torch.Tensor"]]], side: str
    ) -> dict[str, "torch.Tensor"]:
        """`inputs_embeds` [rows, length, width], and `attention_mask`; generation wants padding on the left.

        A row is the pieces of a prompt, and the words float [words, width] of the picture after each but the
        last.
        """
        import torch

        whole = [self._joined(*row) for row in rows]
        longest = max(len(one) for one in whole)
        embeds = whole[0].new_zeros(len(whole), longest, whole[0].shape[1])
        mask = torch.zeros(len(whole), longest, dtype=torch.long, device=embeds.device)
        for row, one in enumerate(whole):
            at = slice(longest - len(one), None) if side == "left" else slice(len(one))
            embeds[row, at], mask[row, at] = one, 1
        return {"inputs_embeds": embeds, "attention_mask": mask}

    def _joined(self, pieces: Pieces, pictures: Sequence["torch.Tensor"]) -> "torch.Tensor":
        """float [length, width]."""
        import torch

        parts: list[Any] = [self._embedded(pieces[0])]
        for words, piece in zip(pictures, pieces[1:], strict=True):
            parts += [words.to(parts[0].dtype), self._embedded(piece)]
        return torch.cat(parts)

    def _embedded(self, tokens: Sequence[int]) -> "torch.Tensor":
        import torch

        device = self._words.weight.device
        words: torch.Tensor = self._words(torch.tensor(tokens, dtype=torch.long, device=device))
        return words

    def _tokens(self, text: str, special: bool = False) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=special)["input_ids"])
