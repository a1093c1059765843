"""Scores what answers through a text model, by the real generators: the reasoner and the fusion."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from stages.generators.backends import generator_view, load_generator
from stages.generators.config import Backend, GeneratorConfig, GeneratorRun, ReasonerConfig
from stages.generators.fusion.model import FUSION, PROJECTOR, projector, read_fusion
from stages.generators.protocol import Request, Result, generate_matched
from stages.pocket import checkpoint, language, scenes
from stages.pocket.drawing import draw
from stages.pocket.training.evaluation import Score
from stages.pocket.training.pictures import LARGEST, SMALLEST
from stages.resize import view

REASONER = GeneratorConfig(
    "pocket:captioner",
    backend=Backend.CAPTION_THEN_LLM,
    max_new_tokens=96,
    reasoner=ReasonerConfig("pocket:reasoner", max_new_tokens=160, temperature=0.0),
)
FUSED = GeneratorConfig("pocket:fusion", backend=Backend.FEATURE_PREFIX, max_new_tokens=160)
RUN = GeneratorRun(batch_size=64, threads=1)


@dataclass(frozen=True)
class Asked:
    """A request, the right text, and the rows of the score table that it counts in."""

    request: Request
    answer: str
    rows: tuple[str, ...]


def asked(config: GeneratorConfig, seed: int, count: int) -> list[Asked]:
    """Both captions and every question of `count` held-out pictures, in the view that the generator reads."""
    rng = np.random.default_rng((seed, 18))
    found: list[Asked] = []
    for scene in scenes.sample_distinct(rng, "held_out", count):
        picture = draw(scene, rng, int(rng.integers(SMALLEST, LARGEST + 1)))
        image = view(picture, picture.shape[:2], generator_view(config))
        prompts = [
            (language.CAPTION_PROMPT, language.captions(scene)[0], ("caption",)),
            (language.DETAIL_PROMPT, language.detail(scene), ("detailed caption",)),
            *(
                (question.text, question.answer, ("answer, all", f"answer, {question.type}"))
                for question in language.questions(scene, rng)
            ),
        ]
        for prompt, answer, rows in prompts:
            known = {"true": language.detail(scene)}
            found.append(Asked(Request(len(found), (image,), prompt, known=known), answer, rows))
    return found


def from_true_captions(tasks: Sequence[Asked]) -> list[Asked]:
    """The reasoner is told what the picture shows instead of what the captioner says."""
    return [
        replace(task, request=replace(task.request, known={"caption": task.request.known["true"]}))
        for task in tasks
    ]


def without_pictures(tasks: Sequence[Asked]) -> list[Asked]:
    """What can be guessed from the question alone."""
    return [replace(task, request=replace(task.request, images=(), known={})) for task in tasks]


def scores(config: GeneratorConfig, tasks: Sequence[Asked]) -> dict[str, Score]:
    """Share of texts that are equal to the right one, character by character, by row."""
    results = generate_matched(load_generator(config, RUN), [task.request for task in tasks])
    hits: dict[str, list[bool]] = defaultdict(list)
    for task, result in zip(tasks, results, strict=True):
        for row in task.rows:
            hits[row].append(isinstance(result, Result) and result.text == task.answer)
    return {row: Score(float(np.mean(values)), len(values)) for row, values in sorted(hits.items())}


def untrained_fusion(folder: Path, seed: int = 0) -> GeneratorConfig:
    """The fusion with random weights in its projector, written to `folder`."""
    torch.manual_seed(seed)
    shutil.copyfile(checkpoint("fusion") / FUSION, folder / FUSION)
    save_file(projector(read_fusion(folder)).state_dict(), folder / PROJECTOR)
    return replace(FUSED, model=str(folder))


def score_all(seed: int, count: int) -> dict[str, dict[str, Score]]:
    """Every column of the table on `count` held-out pictures."""
    read, seen = asked(REASONER, seed, count), asked(FUSED, seed, count)
    with tempfile.TemporaryDirectory() as folder:
        return {
            "reasoner, true caption": scores(REASONER, from_true_captions(read)),
            "reasoner, captioner's caption": scores(REASONER, read),
            "fusion": scores(FUSED, seen),
            "untrained projector": scores(untrained_fusion(Path(folder)), seen),
            "no picture": scores(FUSED, without_pictures(seen)),
        }


def table(columns: dict[str, dict[str, Score]]) -> str:
    """The scores as a Markdown table."""
    rows = next(iter(columns.values()))
    lines = [f"| held-out | {' | '.join(columns)} | cases |", "| --- |" + " --- |" * (len(columns) + 1)]
    for row, score in rows.items():
        shares = " | ".join(f"{column[row].share:.3f}" for column in columns.values())
        lines.append(f"| {row} | {shares} | {score.count} |")
    return "\n".join(lines)
