"""From a batch of inputs to its texts: what is drawn, held to a schema, cut, parted from its thinking."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from stages.generators.config import GeneratorConfig
from stages.generators.local.grammar import Grammars
from stages.generators.local.loading import LoadedModel
from stages.generators.local.rows import Row
from stages.generators.local.sampling import Chooser, Draws, row_seed
from stages.generators.protocol import FinishReason, GenerationError, Result, Sampling
from stages.generators.thinking import THOUGHT, Parted, is_primed, part_thinking


class Decoder:
    def __init__(self, loaded: LoadedModel, config: GeneratorConfig) -> None:
        self._loaded, self._config = loaded, config
        tokenizer = loaded.processor.tokenizer
        self._grammars = Grammars(tokenizer, loaded.ends)
        self._thought = tokenizer.get_vocab().get(THOUGHT)

    def write(self, rows: Sequence[Row], inputs: Mapping[str, Any], **options: Any) -> list[Result]:
        """A result for every id of every row; `options` go to the model's `generate`.

        A text that thinks is parted into thinking and answer, of which alone the log-probability is. The text
        of a model that thinks first follows no schema: held to it from its first token on, it could neither
        think nor get to its answer. Whoever asks checks the answer in any case.

        Raises: GenerationError for padding on the wrong side, after which some texts would be silently wrong,
        for a schema that cannot be followed, and for a model that does not let its tokens be chosen.
        """
        start = time.perf_counter()
        mask = inputs["attention_mask"]
        edge = mask[:, 0 if self._loaded.padding_side == "right" else -1]
        if not bool(edge.all()):
            raise GenerationError(f"prompts of a batch are not padded on the {self._loaded.padding_side}")
        chooser = self._chooser(rows)
        tokens = self._loaded.model.generate(
            **inputs, generation_config=self._loaded.settings, logits_processor=[chooser], **options
        )
        if not chooser.used and any(row.ask.schema or self._sampling(row).temperature for row in rows):
            raise GenerationError(f"{self._config.model} neither samples nor follows a schema")
        first = self._loaded.text_start(inputs["input_ids"].shape[1])
        texts = [_Text(row, self._loaded.ends) for row in tokens[:, first:].tolist()]
        prompts = (mask.sum(dim=1) - self._loaded.dropped).tolist()
        return self._results(rows, texts, prompts, chooser, time.perf_counter() - start)

    def _results(
        self,
        rows: Sequence[Row],
        texts: Sequence["_Text"],
        prompt_tokens: Sequence[int],
        chooser: Chooser,
        seconds: float,
    ) -> list[Result]:
        decode = self._loaded.processor.tokenizer.batch_decode
        words = decode([text.tokens for text in texts], skip_special_tokens=True)
        parts = [part_thinking(word, _thinks(row)) for row, word in zip(rows, words, strict=True)]
        spans = [text.answer(part, self._thought) for text, part in zip(texts, parts, strict=True)]
        logprobs = chooser.mean_logprobs(spans)
        return [
            Result(id, part.answer, text.reason, prompt, text.count, part.thinking, logprob, seconds)
            for row, part, text, prompt, logprob in zip(
                rows, parts, texts, prompt_tokens, logprobs, strict=True
            )
            for id in row.ids
        ]

    def _chooser(self, rows: Sequence[Row]) -> Chooser:
        grammar = self._grammars.follow([None if _thinks(row) else row.ask.schema for row in rows])
        return Chooser(Draws([self._sampling(row) for row in rows], self._loaded.model.device), grammar)

    def _sampling(self, row: Row) -> Sampling:
        """With the seed of the row itself."""
        config = self._config
        asked = row.ask.sampling or Sampling(config.temperature, config.top_p, config.seed)
        seed = row_seed(asked.seed, row.asked.keys, row.prompt.text)
        return Sampling(asked.temperature, asked.top_p, seed)


def _thinks(row: Row) -> bool:
    """Whether the prompt has opened the thinking."""
    return is_primed(row.prompt.text)


class _Text:
    """The tokens of a text, with the one that ends it and without the padding after it."""

    def __init__(self, completion: Sequence[int], ends: frozenset[int]) -> None:
        last = next((place for place, token in enumerate(completion) if token in ends), None)
        self.reason = FinishReason.LENGTH if last is None else FinishReason.STOP
        self.count = len(completion) if last is None else last + 1
        self.tokens = completion[: self.count]

    def answer(self, part: Parted, thought: int | None) -> slice:
        """The tokens of the answer: those behind the last </think>, `thought`; none where that is missing."""
        ends = [place for place, token in enumerate(self.tokens, 1) if token == thought]
        return slice(ends[-1] if ends else self.count if part.thinking else 0, self.count)
