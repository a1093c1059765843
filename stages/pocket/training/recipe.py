"""The whole recipe, phase by phase; each phase leaves its result in a work folder for the next."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    DeepseekVLForConditionalGeneration,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipModel,
    SiglipVisionModel,
)

from stages.pocket import checkpoint
from stages.pocket.training import (
    captioner,
    encoder,
    fusion,
    pictures,
    reasoner,
    saving,
    segments,
    tokenizer,
    vision,
)
from stages.pocket.training.schedule import Plan

CLUSTERS = 18_000  # of four pictures each, plus a quarter as many clips
# Where a curve is cut short, the next plan takes over what it left, with fresh moments.
PLANS = {
    "vision": (Plan(steps=1100, batch=128, rate=1.2e-3),),
    "encoder": (
        Plan(steps=900, batch=128, rate=1.2e-3, readout=0.5, stop=400),
        Plan(steps=250, batch=128, rate=0.8e-3, readout=0.5, warmup=20, seed=1),
    ),
    "captioner": (
        Plan(steps=2800, batch=48, rate=1.5e-3, stop=500),
        Plan(steps=1600, batch=36, rate=2.0e-3, warmup=50, seed=1, orthogonal=True, stop=250),
        Plan(steps=900, batch=36, rate=1.5e-3, warmup=40, seed=2, orthogonal=True, context=0.25, stop=500),
        Plan(steps=1500, batch=36, rate=1.5e-3, warmup=40, seed=3, orthogonal=True, context=0.1, stop=250),
        Plan(steps=1150, batch=36, rate=1.5e-3, warmup=40, seed=4, orthogonal=True, context=0.25, stop=250),
        Plan(steps=850, batch=36, rate=1.5e-3, warmup=30, seed=5, orthogonal=True, context=0.25, stop=250),
        Plan(steps=680, batch=36, rate=1.5e-3, warmup=30, seed=6, orthogonal=True, context=0.25),
    ),
    "reasoner": (
        Plan(steps=1100, batch=16, rate=2.5e-3, warmup=60, orthogonal=True),
        Plan(steps=900, batch=16, rate=2.5e-3, warmup=30, seed=1, orthogonal=True),
    ),
}
# Pictures that watch the training; the scores of the card use another seed.
CHECK_SEED = 1


@dataclass(frozen=True)
class Work:
    """The work folder and the files that phases hand on."""

    folder: Path

    @property
    def bpe(self) -> Path:
        """The tokenizer."""
        return self.folder / "bpe.json"

    @property
    def tower(self) -> Path:
        """The vision tower of phase one."""
        return self.folder / "vision"

    @property
    def readouts(self) -> Path:
        """The training-only heads of phase one."""
        return self.folder / "readouts.pt"


def prepare(work: Work, processes: int) -> None:
    """Draw the training pictures and train the tokenizer."""
    pictures.prepare(work.folder, seed=0, clusters=CLUSTERS, processes=processes)
    tokenizer.train_bpe(seed=0).save(str(work.bpe))


def train_vision(work: Work) -> None:
    """Phase one."""
    check = pictures.held_out(CHECK_SEED, 300)
    (plan,) = PLANS["vision"]
    tower, readouts = vision.train_vision(pictures.load_pictures(work.folder), check, plan)
    tower.save_pretrained(work.tower)
    readouts.save(work.readouts)


def train_encoder(work: Work) -> None:
    """Phase two."""
    bpe = tokenizer.load_bpe(work.bpe)
    tower = SiglipVisionModel.from_pretrained(work.tower)
    model = encoder.build(tower, bpe.get_vocab_size())
    trainer = encoder.EncoderTrainer(
        model,
        tokenizer.encoder_tokenizer(bpe),
        vision.Readouts.load(work.readouts),
        pictures.load_pictures(work.folder),
    )
    check = pictures.held_out(CHECK_SEED, 1000)
    for plan in PLANS["encoder"]:
        encoder.train_encoder(trainer, check, plan, work.folder / "encoder")


def train_captioner(work: Work) -> None:
    """Phase three; it needs phase one only."""
    bpe = tokenizer.load_bpe(work.bpe)
    tower = SiglipVisionModel.from_pretrained(work.tower)
    trainer = captioner.CaptionerTrainer(
        captioner.build(tower, bpe.get_vocab_size()),
        segments.encoder_of(tokenizer.captioner_tokenizer(bpe)),
        vision.Readouts.load(work.readouts),
        pictures.load_pictures(work.folder),
        pictures.load_clips(work.folder),
    )
    check = captioner.check_rows(
        pictures.held_out(CHECK_SEED, 250), pictures.held_out_clips(CHECK_SEED, 60), CHECK_SEED
    )
    for plan in PLANS["captioner"]:
        captioner.train_captioner(trainer, check, plan, work.folder / "captioner")


def train_reasoner(work: Work) -> None:
    """Phase four; it needs no other."""
    words = reasoner.train_tokenizer(seed=0)
    torch.manual_seed(0)
    model = reasoner.build(len(words))
    for plan in PLANS["reasoner"]:
        reasoner.train_reasoner(model, words, plan, work.folder / "reasoner")


def train_fusion(work: Work) -> None:
    """Phase five; it needs the encoder and the reasoner that ship."""
    fusion.write_examples(work.folder / "fusion_data", fusion.PICTURES, seed=0)
    fusion.train_fusion(work.folder / "fusion_data", work.folder / "fusion")


def package(work: Work) -> None:
    """Write the models, halved, with their processors, to the folders that ship."""
    bpe = tokenizer.load_bpe(work.bpe)
    dual = SiglipModel.from_pretrained(work.folder / "encoder")
    saving.save_encoder(dual, bpe, checkpoint("encoder"))
    teller = DeepseekVLForConditionalGeneration.from_pretrained(work.folder / "captioner")
    saving.save_captioner(teller, bpe, checkpoint("captioner"))
    package_reasoner(work)


def package_reasoner(work: Work) -> None:
    """Write the reasoner, halved, to the folder that ships; from there the fusion reads it."""
    folder = work.folder / "reasoner"
    words = PreTrainedTokenizerFast.from_pretrained(folder)
    saving.save_reasoner(LlamaForCausalLM.from_pretrained(folder), words, checkpoint("reasoner"))


def run(work: Work, phases: list[str], processes: int) -> None:
    """Run the named phases in order on one thread, and print what each took.

    Raises ValueError for an unknown phase.
    """
    tasks = {
        "pictures": lambda: prepare(work, processes),
        "vision": lambda: train_vision(work),
        "encoder": lambda: train_encoder(work),
        "captioner": lambda: train_captioner(work),
        "reasoner": lambda: train_reasoner(work),
        "package": lambda: package(work),
        "package_reasoner": lambda: package_reasoner(work),
        "fusion": lambda: train_fusion(work),
        "package_fusion": lambda: saving.save_fusion(work.folder / "fusion", checkpoint("fusion")),
    }
    unknown = set(phases) - set(tasks)
    if unknown:
        raise ValueError(f"unknown phases {sorted(unknown)}; known: {', '.join(tasks)}")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for phase in phases:
        began = time.perf_counter(), sum(os.times()[:4])
        tasks[phase]()
        seconds = time.perf_counter() - began[0]
        print(f"{phase}: {seconds:.0f} s, {sum(os.times()[:4]) - began[1]:.0f} CPU-seconds", flush=True)
