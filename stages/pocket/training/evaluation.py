"""Scores packaged models on held-out pictures, through their own processors and real generation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from stages.pocket import clips, language, scenes
from stages.pocket.drawing import draw
from stages.pocket.scenes import Scene
from stages.pocket.training.pictures import LARGEST, SIDE, SMALLEST

BATCH = 64


@dataclass(frozen=True)
class Loaded:
    """A packaged model in float32 and its processor."""

    model: Any
    processor: Any


@dataclass(frozen=True)
class Gallery:
    """Different held-out scenes and their pictures at their natural sizes."""

    scenes: list[Scene]
    pictures: list[Image.Image]


@dataclass(frozen=True)
class Asked:
    """One prompt about one or more pictures, the right answer, and its row of the score table."""

    pictures: tuple[Image.Image, ...]
    prompt: str
    answer: str
    row: str


@dataclass(frozen=True)
class Score:
    """Share of `count` cases that were right."""

    share: float
    count: int


def load(folder: Path, kind: type[AutoModel] | type[AutoModelForImageTextToText]) -> Loaded:
    """Load a packaged model strictly; raises ValueError when a weight is missing or of another shape."""
    model, report = kind.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True
    )
    wrong = [*report["missing_keys"], *report["mismatched_keys"], *report["unexpected_keys"]]
    if wrong:
        raise ValueError(f"{folder}: weights do not fit the model: {wrong[:3]}")
    processor = AutoProcessor.from_pretrained(
        folder, padding_side="left", trust_remote_code=False, local_files_only=True
    )
    return Loaded(model.eval(), processor)


def gallery(seed: int, count: int, area: bool = False) -> Gallery:
    """`count` different held-out pictures; `area` shrinks them to 96 px as OpenCV's INTER_AREA does."""
    rng = np.random.default_rng((seed, 9))
    found = scenes.sample_distinct(rng, "held_out", count)
    pictures = []
    for scene in found:
        picture = Image.fromarray(draw(scene, rng, int(rng.integers(SMALLEST, LARGEST + 1))))
        pictures.append(picture.resize((SIDE, SIDE), Image.Resampling.BOX) if area else picture)
    return Gallery(found, pictures)


@torch.no_grad()
def image_features(encoder: Loaded, pictures: list[Image.Image]) -> Tensor:
    """Unit rows, float32 [pictures, 192]."""
    rows = []
    for start in range(0, len(pictures), BATCH):
        inputs = encoder.processor(images=pictures[start : start + BATCH], return_tensors="pt")
        rows.append(encoder.model.get_image_features(**inputs).pooler_output)
    return F.normalize(torch.cat(rows), dim=-1)


@torch.no_grad()
def text_features(encoder: Loaded, texts: list[str]) -> Tensor:
    """Unit rows, float32 [texts, 192]; texts are padded to the tokenizer's model_max_length."""
    rows = []
    for start in range(0, len(texts), BATCH):
        inputs = encoder.processor.tokenizer(
            texts[start : start + BATCH], padding="max_length", truncation=True, return_tensors="pt"
        )
        rows.append(encoder.model.get_text_features(input_ids=inputs.input_ids).pooler_output)
    return F.normalize(torch.cat(rows), dim=-1)


def recall(encoder: Loaded, shown: Gallery) -> dict[str, Score]:
    """Detailed caption to its own picture among all pictures of the gallery: recall at 1, 5 and 10."""
    images = image_features(encoder, shown.pictures)
    texts = text_features(encoder, [language.detail(scene) for scene in shown.scenes])
    similarity = texts @ images.T
    ranks = (similarity > similarity.diagonal()[:, None]).sum(1)
    found = {f"detailed text to image, recall@{k}": ranks < k for k in (1, 5, 10)}
    return {name: Score(float(hits.float().mean()), len(hits)) for name, hits in found.items()}


@torch.no_grad()
def answer(captioner: Loaded, asked: list[Asked], longest: int = 96) -> list[str]:
    """Greedy answers, in order, in batches of similar prompts."""
    answers = [""] * len(asked)
    order = sorted(range(len(asked)), key=lambda index: (len(asked[index].answer), asked[index].prompt))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        for index, text in zip(
            chosen, _generate(captioner, [asked[i] for i in chosen], longest), strict=True
        ):
            answers[index] = text
    return answers


def _generate(captioner: Loaded, asked: list[Asked], longest: int) -> list[str]:
    processor = captioner.processor
    conversations = [
        [
            {
                "role": "user",
                "content": [
                    *({"type": "image", "image": picture} for picture in one.pictures),
                    {"type": "text", "text": one.prompt},
                ],
            }
        ]
        for one in asked
    ]
    inputs = processor.apply_chat_template(
        conversations,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    made = captioner.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
    texts: list[str] = processor.batch_decode(
        made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return [text.strip() for text in texts]


def caption_tasks(shown: Gallery) -> list[Asked]:
    """Caption, detailed caption and JSON of every picture."""
    tasks = []
    for scene, picture in zip(shown.scenes, shown.pictures, strict=True):
        frames = (picture,)
        caption = language.captions(scene)[0]
        tasks += [
            Asked(frames, language.CAPTION_PROMPT, caption, f"caption, {language.KINDS[scene.family]}"),
            Asked(frames, language.DETAIL_PROMPT, language.detail(scene), "detailed caption"),
            Asked(frames, language.JSON_PROMPT, language.to_json(scene), "JSON"),
        ]
    return tasks


def question_tasks(shown: Gallery, seed: int) -> list[Asked]:
    """Every kind of question about every picture."""
    rng = np.random.default_rng((seed, 10))
    return [
        Asked((picture,), question.text, question.answer, f"answer, {question.type}")
        for scene, picture in zip(shown.scenes, shown.pictures, strict=True)
        for question in language.questions(scene, rng)
    ]


def clip_tasks(seed: int, count: int) -> list[Asked]:
    """Every question about `count` held-out clips."""
    rng = np.random.default_rng((seed, 11))
    tasks = []
    for _ in range(count):
        clip = clips.sample_split(rng, "held_out")
        size = int(rng.integers(SMALLEST, LARGEST + 1))
        frames = tuple(Image.fromarray(draw(frame, rng, size)) for frame in clip.frames)
        tasks += [Asked(frames, text, right, "three-frame clips") for text, right in clips.questions(clip)]
    return tasks


def exact(captioner: Loaded, asked: list[Asked]) -> dict[str, Score]:
    """Share of exact answers by row, with "caption" and "answer" over all rows that begin so."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for one, told in zip(asked, answer(captioner, asked), strict=True):
        for row in _rows(one.row):
            hits[row].append(told == one.answer)
    return {row: Score(float(np.mean(values)), len(values)) for row, values in sorted(hits.items())}


def _rows(row: str) -> tuple[str, ...]:
    general, comma, _ = row.partition(", ")
    return (f"{general}, all", row) if comma else (row,)


def score_all(encoder: Path, captioner: Path, seed: int, count: int, area: bool = False) -> dict[str, Score]:
    """Every row of the score table on `count` held-out pictures and `count` // 10 held-out clips."""
    shown = gallery(seed, count, area)
    scores = recall(load(encoder, AutoModel), shown)
    tasks = caption_tasks(shown) + question_tasks(shown, seed) + clip_tasks(seed, count // 10)
    return scores | exact(load(captioner, AutoModelForImageTextToText), tasks)


def table(scores: dict[str, Score]) -> str:
    """The scores as a Markdown table."""
    lines: Iterable[str] = (f"| {row} | {score.share:.3f} | {score.count} |" for row, score in scores.items())
    return "\n".join(["| held-out | exact | cases |", "| --- | --- | --- |", *lines])
