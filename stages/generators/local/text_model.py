"""Text out of text, by any model that `AutoModelForCausalLM` of transformers loads."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.batching import Batches, Failure, OnOom
from stages.checkpoints import Device, ModelLoadError, load, loading, resolve
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.asked import Ask, AskedPictures
from stages.generators.local.decoding import Decoder
from stages.generators.local.loading import LoadedModel, end_tokens, generation_settings
from stages.generators.local.prompts import Prompt
from stages.generators.local.quantization import quantization_options
from stages.generators.local.rows import Room, Row
from stages.generators.protocol import FailedRequest, GenerationError, Request, Result, Turn
from stages.generators.thinking import THOUGHT

_NO_PICTURES = AskedPictures((), (), {})
_BLANK_PROMPT = 200  # letters: a prompt may be too long for the model, but not its beginning


@dataclass(frozen=True, eq=False)
class Words:
    """What stands for the processor of a model that reads text only."""

    tokenizer: Any
    chat_template: str | None


def load_text_model(config: GeneratorConfig, run: GeneratorRun) -> LoadedModel:
    """Raises: ModelLoadError."""
    import transformers

    folder = resolve(config.model, config.revision)
    tokenizer = _load_tokenizer(folder)
    fewer_bits = quantization_options(config.quantization, config.dtype, run)
    model = load(transformers.AutoModelForCausalLM, folder, config.dtype, run.device, **fewer_bits)
    # The model's own, too: `generate` takes from there what is None in the settings it is given.
    model.generation_config = settings = generation_settings(model, tokenizer, config)
    return LoadedModel(
        model=model,
        processor=Words(tokenizer, tokenizer.chat_template),
        settings=settings,
        ends=end_tokens(model),
        dropped=0,
        pads=True,
        encoder_decoder=False,
        pictures=0,
        chats=bool(tokenizer.chat_template),
    )


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    with loading(folder):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, padding_side="left", trust_remote_code=False, local_files_only=True
        )
    if tokenizer.pad_token_id is None:
        raise ModelLoadError(f"{folder} has a tokenizer without a padding token")
    if THOUGHT in tokenizer.all_special_tokens:
        # It would be left out of every text, and the thinking be taken for the answer.
        raise ModelLoadError(f"{folder} has a tokenizer that counts {THOUGHT} among its special tokens")
    return tokenizer


class TextModel:
    """A `Generator` that reads prompts and their earlier turns, and no pictures.

    A text is split into thinking and answer; one that never gets to its answer has an empty `text`. Requests
    that ask the same share one text. Texts do not depend on the batch they are in, sampled ones either.
    Raises: ModelLoadError on construction.
    """

    def __init__(self, config: GeneratorConfig, run: GeneratorRun) -> None:
        import torch

        if run.threads is not None:
            torch.set_num_threads(run.threads)
        self._config, self._run = config, run
        self._loaded = load_text_model(config, run)
        self._decoder = Decoder(self._loaded, config)
        self._batches = Batches[Row, list[Result]](
            run.batch_size,
            self._write,
            self._blank,
            self._write_on_cpu if run.on_oom is OnOom.CPU else None,
            fatal=(GenerationError, ModelLoadError),
        )

    @property
    def marks(self) -> Iterable[str]:
        """The strings that the tokenizer reads as tokens of their own: data must not hold them."""
        return self._tokenizer.get_added_vocab().keys()  # type: ignore[no-any-return]

    @property
    def notes(self) -> Sequence[str]:
        return self._batches.notes

    @property
    def _tokenizer(self) -> Any:
        return self._loaded.processor.tokenizer

    def generate(self, requests: Sequence[Request], /) -> list[Result | FailedRequest]:
        """Pictures of the requests are not looked at."""
        import torch

        rows = sorted(self._rows(requests), key=lambda row: len(row.prompt))
        with torch.inference_mode():
            outcomes = self._batches.run(rows)
        return [
            result
            for row, outcome in zip(rows, outcomes, strict=True)
            for result in (_failed(row, outcome) if isinstance(outcome, Failure) else outcome)
        ]

    def _rows(self, requests: Sequence[Request]) -> Iterator[Row]:
        asked: dict[Ask, list[int]] = {}
        for one in requests:
            asked.setdefault(Ask(one.prompt, one.turns, one.sampling, one.schema), []).append(one.id)
        return (self._row(ask, ids) for ask, ids in asked.items())

    def _row(self, ask: Ask, ids: Sequence[int]) -> Row:
        return Row(ids, _NO_PICTURES, ask, self._render(ask), None)

    def _blank(self, row: Row) -> Row:
        return self._row(replace(row.ask, prompt=row.ask.prompt[:_BLANK_PROMPT], turns=()), row.ids)

    def _render(self, ask: Ask) -> Prompt:
        text, special = rendered(self._loaded, ask.prompt, ask.turns)
        return Prompt(text, (tuple(self._tokenizer(text, add_special_tokens=special)["input_ids"]),), special)

    def _write(self, rows: Sequence[Row], limit: int) -> list[list[Result]]:
        require_room(self._loaded, max(len(row.prompt) for row in rows), self._config.max_new_tokens)
        room = Room(limit, self._run.batch_tokens, self._config.max_new_tokens)
        made: dict[int, Result] = {}
        for batch in room.cut(rows, lambda row: ((), len(row.prompt))):
            tokens = {"input_ids": [list(row.prompt.pieces[0]) for row in batch]}
            inputs = self._tokenizer.pad(tokens, return_tensors="pt").to(self._loaded.model.device)
            made |= {one.id: one for one in self._decoder.write(batch, inputs)}
        return [[made[id] for id in row.ids] for row in rows]

    def _write_on_cpu(self, rows: Sequence[Row], limit: int) -> list[list[Result]]:
        return self._on_cpu._write(rows, limit)

    @functools.cached_property
    def _on_cpu(self) -> "TextModel":
        """The same weights on the CPU, loaded by the first text that does not fit, and kept."""
        if self._loaded.model.device.type == "cpu":
            return self
        return TextModel(self._config, replace(self._run, device=Device.CPU, on_oom=OnOom.ROW))


def rendered(loaded: LoadedModel, prompt: str, turns: Sequence[Turn]) -> tuple[str, bool]:
    """The text that the model is to go on with, and whether its tokenizer must add what begins a text.

    No system prompt, as DeepSeek-R1's authors advise. Raises: GenerationError for turns without a template.
    """
    tokenizer = loaded.processor.tokenizer
    if loaded.chats:
        prompt = tokenizer.apply_chat_template(
            _messages(prompt, turns), tokenize=False, add_generation_prompt=True
        )
    elif turns:
        raise GenerationError("a model without a chat template takes no earlier turns")
    # A template may write the first token itself; the tokenizer must not write it again.
    return prompt, not (tokenizer.bos_token and prompt.startswith(tokenizer.bos_token))


def _messages(prompt: str, turns: Sequence[Turn]) -> list[dict[str, str]]:
    said = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in (("user", turn.prompt), ("assistant", turn.text))
    ]
    return [*said, {"role": "user", "content": prompt}]


def require_room(loaded: LoadedModel, prompt_tokens: int, new_tokens: int) -> None:
    """What lies beyond a model's context is garbage. Raises: ValueError where the text might get there."""
    context = getattr(loaded.model.config, "max_position_embeddings", None)
    if context is not None and prompt_tokens + new_tokens > context:
        raise ValueError(
            f"a prompt of {prompt_tokens} tokens and max_new_tokens {new_tokens} exceed the model's {context}"
        )


def _failed(row: Row, failure: Failure) -> list[FailedRequest]:
    return [FailedRequest(id, failure.status, failure.error) for id in row.ids]
