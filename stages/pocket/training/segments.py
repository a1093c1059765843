"""Packs many independent questions behind one look at a picture: one image pass, a mask in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from stages.pocket import clips, language
from stages.pocket.scenes import Scene
from stages.pocket.training.tokenizer import ASSISTANT, EOS, IMAGE, PAD, USER

IMAGE_TOKENS = 36
IGNORED = -100

# How often a question is drawn, by type: what is learned late (comparisons, presence, counts) more often.
ASKED = {"yesno": 5.0, "where": 3.0, "count": 3.0, "chart": 2.0, "kind": 0.5}
# Weight of each answer token by type. JSON is mostly punctuation; in a yes or a no one token teaches all.
WEIGHTS = {"caption": 2.0, "detail": 1.0, "json": 0.5}
ANSWER_WEIGHT = 3.0

Encode = Callable[[str], tuple[int, ...]]


@dataclass(frozen=True)
class Segment:
    """A prompt, the right answer and what it counts as in the scores."""

    prompt: str
    answer: str
    type: str

    @property
    def weight(self) -> float:
        """Weight of each answer token in the loss."""
        return WEIGHTS.get(self.type, ANSWER_WEIGHT)


@dataclass(frozen=True)
class Row:
    """Segments behind the same frames; frames uint8 [1 or 3, 96, 96, 3]."""

    frames: NDArray[np.uint8]
    shown: tuple[Scene, ...]
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Batch:
    """Rows as tensors, [rows, length] each.

    `segment` is 0 for the images, -1 for padding, and counts from 1 in each row;
    labels are `IGNORED` outside answers.
    """

    ids: Tensor
    positions: Tensor
    segment: Tensor
    labels: Tensor
    weights: Tensor

    def mask(self) -> Tensor:
        """Additive float [rows, 1, length, length]: a segment sees the images and its own past."""
        return segment_mask(self.segment)


def segment_mask(segment: Tensor) -> Tensor:
    """Additive float [rows, 1, length, length] of int64 [rows, length]: a segment sees segment 0, which all
    share, and its own past.
    """
    length = segment.shape[1]
    mine, theirs = segment[:, :, None], segment[:, None, :]
    past = torch.ones(length, length, dtype=torch.bool).tril()
    seen = ((mine == theirs) | (theirs == 0)) & (theirs >= 0) & past
    seen |= torch.eye(length, dtype=torch.bool)  # padding sees itself: a softmax over nothing is NaN
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]


def encoder_of(tokenizer: PreTrainedTokenizerFast) -> Encode:
    """Token ids of a text, remembered: the language has few different texts of one kind."""

    @lru_cache(maxsize=200_000)
    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)

    return encode


def every_segment(scene: Scene, rng: np.random.Generator) -> list[Segment]:
    """All that is asked of a scene: caption, detail, JSON, then every question."""
    return [
        Segment(language.CAPTION_PROMPT, language.captions(scene)[0], "caption"),
        Segment(language.DETAIL_PROMPT, language.detail(scene), "detail"),
        Segment(language.JSON_PROMPT, language.to_json(scene), "json"),
        *(Segment(asked.text, asked.answer, asked.type) for asked in language.questions(scene, rng)),
    ]


def clip_segments(clip: clips.Clip) -> list[Segment]:
    """All that is asked of a clip."""
    return [Segment(text, answer, "motion") for text, answer in clips.questions(clip)]


def some_segments(scene: Scene, rng: np.random.Generator, questions: int = 6) -> tuple[Segment, ...]:
    """The caption, half of the time the detail or the JSON, then questions by type weight."""
    caption, detail, as_json, *asked = every_segment(scene, rng)
    odds = np.array([ASKED.get(segment.type, 1.0) for segment in asked])
    count = min(questions, len(asked))
    chosen = rng.choice(len(asked), count, replace=False, p=odds / odds.sum())
    draw = rng.random()
    long = [detail] if draw < 0.4 else [as_json] if draw < 0.5 else []
    return (caption, *long, *(asked[int(index)] for index in chosen))


def _lengths(row: Row, encode: Encode) -> int:
    words = sum(len(encode(part.prompt)) + len(encode(part.answer)) + 2 for part in row.segments)
    return 1 + IMAGE_TOKENS * len(row.frames) + words


def by_length(rows: list[Row], encode: Encode) -> list[Row]:
    """Shortest first: batches of neighbours waste little on padding."""
    return sorted(rows, key=lambda row: _lengths(row, encode))


def pack(rows: list[Row], encode: Encode) -> Batch:
    """The rows as one right-padded batch; every segment's positions continue from the images."""
    length = max(_lengths(row, encode) for row in rows)
    ids = np.full((len(rows), length), PAD)
    positions, segment = np.zeros_like(ids), np.full_like(ids, -1)
    labels, weights = np.full_like(ids, IGNORED), np.zeros(ids.shape, dtype=np.float32)
    for number, row in enumerate(rows):
        prefix = [USER] + [IMAGE] * (IMAGE_TOKENS * len(row.frames))
        at = len(prefix)
        ids[number, :at], positions[number, :at], segment[number, :at] = prefix, range(at), 0
        for place, part in enumerate(row.segments, start=1):
            asked, told = [*encode(part.prompt), ASSISTANT], [*encode(part.answer), EOS]
            end = at + len(asked) + len(told)
            ids[number, at:end] = asked + told
            positions[number, at:end] = range(len(prefix), len(prefix) + end - at)
            segment[number, at:end] = place
            labels[number, end - len(told) : end] = told
            weights[number, end - len(told) : end] = part.weight
            at = end
    return Batch(*(torch.from_numpy(array) for array in (ids, positions, segment, labels, weights)))
