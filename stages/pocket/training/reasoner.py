"""Phase four: the reasoner, a small Llama that reads a description, thinks, then answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stages.pocket import language, scenes
from stages.pocket.scenes import Scene
from stages.pocket.training.derivation import notes, thinking
from stages.pocket.training.schedule import Descent, Part, Plan, Progress
from stages.pocket.training.segments import ASKED, IGNORED, Encode, encoder_of, segment_mask
from stages.pocket.training.tokenizer import bpe_of

PAD, BOS, EOS, USER, ASSISTANT = range(5)
SPECIAL = ("<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>")
# As in DeepSeek-R1's tokenizer these two are tokens but not special: they stay in a decoded text.
THINK, THOUGHT = "<think>", "</think>"
CONTEXT = 512
# The first content of a turn is a system prompt nowhere; the thinking is opened for the model.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% set content = message['content'] %}"
    "{% if message['role'] == 'assistant' %}{{ content.split('</think>')[-1] + '</s>' }}"
    "{% else %}{{ content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
)
FILE = "[file name]: image\n[file content begin]\n{}\n[file content end]\n"
LANGUAGE_MODEL = {
    "hidden_size": 160,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "tie_word_embeddings": True,
}
# Bare notes instead of a file, in this share of documents: a frozen model must read such words from vectors.
NOTES_SHARE = 0.4
QUESTIONS = 5
POOL = 8


@dataclass(frozen=True)
class Told:
    """A question behind a document, and what is to be written: the thinking, then the answer."""

    prompt: str
    text: str
    type: str


@dataclass(frozen=True)
class Document:
    """What the model reads first, and all that is asked about it."""

    head: str
    told: tuple[Told, ...]


@dataclass(frozen=True)
class Batch:
    """Documents as tensors, int64 [documents, length]; `segment` is 0 for the head, -1 for padding."""

    ids: Tensor
    positions: Tensor
    segment: Tensor
    labels: Tensor

    def mask(self) -> Tensor:
        """Additive float [documents, 1, length, length]: a question sees the head and its own past."""
        return segment_mask(self.segment)


def told(scene: Scene, prompt: str, answer: str, type: str) -> Told:
    """The text behind the opened <think>: "\\n" before it is the prompt's."""
    return Told(prompt, f"{thinking(scene, prompt)}{THOUGHT}\n{answer}", type)


def everything(scene: Scene, rng: np.random.Generator) -> list[Told]:
    """Both captions, then every question."""
    return [
        told(scene, language.CAPTION_PROMPT, language.captions(scene)[0], "caption"),
        told(scene, language.DETAIL_PROMPT, language.detail(scene), "detail"),
        *(told(scene, asked.text, asked.answer, asked.type) for asked in language.questions(scene, rng)),
    ]


def document(scene: Scene, rng: np.random.Generator) -> Document:
    """A scene as a file or as notes, some questions, and behind half of the files a caption; notes: 0.8."""
    as_notes = rng.random() < NOTES_SHARE
    caption, detail, *asked = everything(scene, rng)
    odds = np.array([ASKED.get(one.type, 1.0) for one in asked])
    chosen = rng.choice(len(asked), min(QUESTIONS, len(asked)), replace=False, p=odds / odds.sum())
    draw, some = rng.random(), 0.8 if as_notes else 0.5
    long = [] if draw > some else [caption] if draw < 0.6 * some else [detail]
    head = notes(scene) + "\n" if as_notes else FILE.format(language.detail(scene))
    return Document(head, (*long, *(asked[int(index)] for index in chosen)))


def pack(documents: list[Document], encode: Encode) -> Batch:
    """Right-padded; the positions of every question continue from the head."""
    rows = [_row(document, encode) for document in documents]
    length = max(row.shape[1] for row in rows)
    padding = np.array([PAD, 0, -1, IGNORED])[:, None]
    full = [np.hstack([row, padding.repeat(length - row.shape[1], axis=1)]) for row in rows]
    return Batch(*(torch.from_numpy(array) for array in np.stack(full, axis=1)))


def _row(document: Document, encode: Encode) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """int64 [4, length]: ids, positions, segment, labels."""
    head = [USER, *encode(document.head)]
    parts = [(head, range(len(head)), [0] * len(head), [IGNORED] * len(head))]
    for number, one in enumerate(document.told, start=1):
        asked = [*encode(one.prompt), ASSISTANT, *encode(f"{THINK}\n")]
        written = [*encode(one.text), EOS]
        size = len(asked) + len(written)
        positions = range(len(head), len(head) + size)
        parts.append((asked + written, positions, [number] * size, [IGNORED] * len(asked) + written))
    return np.array([[value for part in parts for value in part[field]] for field in range(4)])


def corpus(seed: int, count: int) -> Iterator[str]:
    """Everything that is read and written about `count` scenes of the training side."""
    rng = np.random.default_rng((seed, 14))
    for _ in range(count):
        scene = scenes.sample_split(rng, "train")
        yield FILE.format(language.detail(scene))
        yield notes(scene)
        for one in everything(scene, rng):
            yield one.prompt
            yield from one.text.split(THOUGHT)


def train_tokenizer(seed: int, count: int = 2000) -> PreTrainedTokenizerFast:
    """Byte-level BPE of single digits and whole words; pads on the left; its chat template opens <think>."""
    bpe = bpe_of(corpus(seed, count), SPECIAL)
    bpe.add_tokens([AddedToken(mark, normalized=False) for mark in (THINK, THOUGHT)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=SPECIAL[BOS],
        eos_token=SPECIAL[EOS],
        pad_token=SPECIAL[PAD],
        model_max_length=CONTEXT,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def build(vocabulary: int) -> LlamaForCausalLM:
    """A Llama of 1.3 million parameters with random weights."""
    config = LlamaConfig(vocab_size=vocabulary, **LANGUAGE_MODEL)
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = PAD, EOS
    return model


def documents(plan: Plan, encode: Encode) -> Iterator[list[Document]]:
    """Endless batches of `plan.batch` documents of similar length."""
    rng = np.random.default_rng((plan.seed, 15))
    while True:
        pool = [document(scenes.sample_split(rng, "train"), rng) for _ in range(POOL * plan.batch)]
        pool.sort(key=lambda one: sum(len(encode(part.text)) for part in one.told))
        for cut in rng.permutation(POOL):
            yield pool[cut * plan.batch : (cut + 1) * plan.batch]


def logits_of(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Logits [labelled tokens, vocabulary]."""
    hidden = model.model(
        input_ids=batch.ids, attention_mask=batch.mask(), position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    logits: Tensor = model.lm_head(hidden[:, :-1][batch.labels[:, 1:] != IGNORED])
    return logits


@torch.no_grad()
def exact_shares(model: LlamaForCausalLM, encode: Encode, asked: list[Document]) -> dict[str, float]:
    """Share of texts written exactly, thinking and answer, by type and over all question types.

    One forward pass suffices: greedy generation is exact when the right token is the likeliest at every step.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(asked), 32):
        part = asked[start : start + 32]
        batch = pack(part, encode)
        labels = batch.labels[:, 1:]
        wrong = torch.zeros_like(labels, dtype=torch.bool)
        wrong[labels != IGNORED] = logits_of(model, batch).argmax(-1) != labels[labels != IGNORED]
        for number, one in enumerate(part):
            for place, text in enumerate(one.told, start=1):
                mine = batch.segment[number, 1:] == place
                right[text.type].append(not bool(wrong[number][mine].any()))
    answers = [hit for kind, hits in right.items() if kind not in ("caption", "detail") for hit in hits]
    pooled = {"answers": answers, **dict(sorted(right.items()))}
    return {kind: round(float(np.mean(hits)), 3) for kind, hits in pooled.items()}


def check_documents(seed: int, count: int, head: str) -> list[Document]:
    """Everything asked of held-out scenes, behind a "file" or "notes"."""
    rng = np.random.default_rng((seed, 16))
    found = scenes.sample_distinct(rng, "held_out", count)
    return [
        Document(
            notes(scene) + "\n" if head == "notes" else FILE.format(language.detail(scene)),
            tuple(everything(scene, rng)),
        )
        for scene in found
    ]


def train_reasoner(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, plan: Plan, kept: Path
) -> None:
    """Train the reasoner in place; the newest weights are kept in `kept` every 250 steps."""
    torch.manual_seed(plan.seed)
    encode = encoder_of(tokenizer)
    checks = {head: check_documents(1, 150, head) for head in ("file", "notes")}
    layers = Part(model.model.layers, orthogonal=plan.orthogonal)
    descent = Descent(plan, [layers, Part(model)])
    batches, progress = documents(plan, encode), Progress("reasoner")
    for step in range(1, plan.last + 1):
        batch = pack(next(batches), encode)
        labels = batch.labels[:, 1:]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = logits_of(model, batch)
        loss = F.cross_entropy(logits.float(), labels[labels != IGNORED])
        descent.step(step, loss)
        progress.note(step, loss=loss.item())
        if step % 250 == 0 or step == plan.last:
            for head, check in checks.items():
                print("reasoner check", head, exact_shares(model, encode, check), flush=True)
            model.save_pretrained(kept)
            tokenizer.save_pretrained(kept)
