"""Phase five: the projector through which the reasoner reads what the encoder sees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from stages.generators.fusion.config import FusionPlan, FusionRun
from stages.generators.fusion.data import read_examples
from stages.generators.fusion.model import Reads
from stages.generators.fusion.training import FusionTrainer
from stages.pocket import scenes
from stages.pocket.drawing import draw
from stages.pocket.training.pictures import LARGEST, SMALLEST
from stages.pocket.training.reasoner import everything

# 24 words: what the notes take that the reasoner was trained to read, a few more.
PLAN = FusionPlan(
    vision="pocket:encoder",
    llm="pocket:reasoner",
    reads=Reads.POOLED,
    tokens=24,
    hidden=512,
    steps=900,
    batch=48,
    rate=3e-3,
)
PICTURES = 10_000


def write_examples(folder: Path, count: int, seed: int) -> None:
    """`count` pictures of the training side as JPEG, and data.jsonl: both captions and every question of
    each, with the thinking that leads to the answer.
    """
    rng = np.random.default_rng((seed, 17))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "data.jsonl").open("w", encoding="utf-8") as rows:
        for number in range(count):
            scene = scenes.sample_split(rng, "train")
            name = f"{number:05d}.jpg"
            pixels = draw(scene, rng, int(rng.integers(SMALLEST, LARGEST + 1)))
            Image.fromarray(pixels).save(folder / name, "JPEG", quality=int(rng.integers(80, 96)))
            for one in everything(scene, rng):
                row = {"image": name, "prompt": one.prompt, "text": one.text}
                rows.write(json.dumps(row) + "\n")


def train_fusion(folder: Path, out: Path) -> None:
    """Train on what `write_examples` left in `folder`; the projector goes to `out`."""
    examples = read_examples(folder / "data.jsonl", folder)
    trainer = FusionTrainer(PLAN, FusionRun(threads=1, save_every=100), examples)
    trainer.train(out, lambda line: print(f"fusion {line}", flush=True))
