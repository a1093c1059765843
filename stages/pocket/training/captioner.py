"""Phase three: the captioner; the vision tower of phase one, an aligner and a small Llama."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DeepseekVLConfig, DeepseekVLForConditionalGeneration, SiglipVisionModel

from stages.pocket.training.facts import facts
from stages.pocket.training.pictures import ClipSet, PictureSet, as_input
from stages.pocket.training.readout import ContextReadout, fact_loss
from stages.pocket.training.schedule import Descent, Part, Plan, Progress, shuffled
from stages.pocket.training.segments import (
    IGNORED,
    Batch,
    Encode,
    Row,
    Segment,
    by_length,
    clip_segments,
    every_segment,
    pack,
    some_segments,
)
from stages.pocket.training.tokenizer import BOS, EOS, IMAGE, PAD, PROMPT_LENGTH
from stages.pocket.training.vision import ATTENTION, TOWER, WIDTH, Readouts

LANGUAGE_MODEL = {
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": PROMPT_LENGTH,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "tie_word_embeddings": True,
}
# One row in ten is a clip; batches are cut from eight at a time, sorted by length.
CLIP_SHARE = 0.1
POOL = 8


def build(tower: SiglipVisionModel, vocabulary: int) -> DeepseekVLForConditionalGeneration:
    """A DeepSeek-VL model around a trained vision tower, without that tower's pooling head."""
    config = DeepseekVLConfig(
        vision_config={"model_type": "siglip_vision_model", **TOWER, "vision_use_head": False},
        text_config={**LANGUAGE_MODEL, "vocab_size": vocabulary},
        image_token_id=IMAGE,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    config._attn_implementation = ATTENTION
    model = DeepseekVLForConditionalGeneration(config)
    learned = {name: value for name, value in tower.state_dict().items() if not name.startswith("head.")}
    model.model.vision_model.load_state_dict(learned)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = PAD, EOS
    return model


def answer_logits(model: DeepseekVLForConditionalGeneration, batch: Batch, patches: Tensor) -> Tensor:
    """Logits [answer tokens, vocabulary] for the labelled positions; patches float [images, 36, width]."""
    aligned = model.model.aligner(patches)
    words = model.get_input_embeddings()(batch.ids)
    inputs = words.masked_scatter((batch.ids == IMAGE)[..., None], aligned.to(words.dtype))
    hidden = model.model.language_model(
        inputs_embeds=inputs, attention_mask=batch.mask(), position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    logits: Tensor = model.lm_head(hidden[:, :-1][batch.labels[:, 1:] != IGNORED])
    return logits


def rows_of_clips(clips: ClipSet, index: list[int]) -> list[Row]:
    """Rows that ask everything of the chosen clips."""
    return [
        Row(clips.pixels[number], clips.clips[number].frames, tuple(clip_segments(clips.clips[number])))
        for number in index
    ]


@dataclass(frozen=True)
class Losses:
    """Parts of one loss: weighted answer tokens, what patches show, where they are, equal things."""

    words: Tensor
    facts: Tensor
    places: Tensor
    equals: Tensor

    def total(self, plan: Plan) -> Tensor:
        """What is minimised."""
        return self.words + plan.readout * self.facts + plan.context * (self.places + self.equals)


class CaptionerTrainer:
    """Holds what every step needs: model, token ids, readouts, pictures and clips."""

    def __init__(
        self,
        model: DeepseekVLForConditionalGeneration,
        encode: Encode,
        readouts: Readouts,
        pictures: PictureSet,
        clips: ClipSet,
    ) -> None:
        self.model, self.encode, self.readouts = model, encode, readouts
        self.pictures, self.clips = pictures, clips
        self.context = ContextReadout(WIDTH)

    def batches(self, plan: Plan, rng: np.random.Generator) -> Iterator[list[Row]]:
        """Endless batches of `plan.batch` rows of similar length."""
        moving = round(CLIP_SHARE * POOL * plan.batch)
        still = POOL * plan.batch - moving
        still_index = shuffled(len(self.pictures.scenes), still, plan.seed)
        moving_index = shuffled(len(self.clips.clips), moving, plan.seed + 1)
        while True:
            rows = rows_of_clips(self.clips, next(moving_index))
            for number in next(still_index):
                scene = self.pictures.scenes[number]
                pixels = self.pictures.pixels[number : number + 1]
                rows.append(Row(pixels, (scene,), some_segments(scene, rng)))
            rows = by_length(rows, self.encode)
            for cut in rng.permutation(POOL):
                yield rows[cut * plan.batch : (cut + 1) * plan.batch]

    def losses(self, rows: list[Row]) -> Losses:
        """All losses of one batch."""
        batch = pack(rows, self.encode)
        pixels = as_input(np.concatenate([row.frames for row in rows]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            patches = self.model.model.vision_model(pixel_values=pixels).last_hidden_state
            logits = answer_logits(self.model, batch, patches)
        labels, weights = batch.labels[:, 1:], batch.weights[:, 1:]
        told = labels != IGNORED
        each = F.cross_entropy(logits.float(), labels[told], reduction="none")
        words = (each * weights[told]).sum() / weights[told].sum()
        targets = torch.from_numpy(np.stack([facts(scene) for row in rows for scene in row.shown])).long()
        local = fact_loss(self.readouts.patches(patches.float()), targets)
        return Losses(words, local, *self.context(patches.float(), targets))


@torch.no_grad()
def exact_shares(
    model: DeepseekVLForConditionalGeneration, encode: Encode, rows: list[Row]
) -> dict[str, float]:
    """Share of segments answered exactly, by type, and "answers" over all question types.

    One forward pass suffices: greedy generation is exact when the right token is the likeliest at every step.
    """
    model.eval()
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(rows), 32):
        part = rows[start : start + 32]
        batch = pack(part, encode)
        pixels = as_input(np.concatenate([row.frames for row in part]))
        logits = answer_logits(model, batch, model.model.vision_model(pixel_values=pixels).last_hidden_state)
        labels = batch.labels[:, 1:]
        told = labels != IGNORED
        wrong = torch.zeros_like(labels, dtype=torch.bool)
        wrong[told] = logits.argmax(-1) != labels[told]
        for number, row in enumerate(part):
            for place, segment in enumerate(row.segments, start=1):
                mine = batch.segment[number, 1:] == place
                right[_score_key(row, segment)].append(not bool(wrong[number][mine].any()))
    model.train()
    return _summary(right)


def _score_key(row: Row, segment: Segment) -> str:
    return f"caption {row.shown[0].family}" if segment.type == "caption" else segment.type


def _summary(right: dict[str, list[bool]]) -> dict[str, float]:
    caption = [hit for name, hits in right.items() if name.startswith("caption") for hit in hits]
    others = ("detail", "json", "motion")
    answers = [
        hit
        for name, hits in right.items()
        if not name.startswith("caption") and name not in others
        for hit in hits
    ]
    pooled = {"caption": caption, "answers": answers, **dict(sorted(right.items()))}
    return {name: round(float(np.mean(hits)), 3) for name, hits in pooled.items() if hits}


def check_rows(pictures: PictureSet, clips: ClipSet, seed: int) -> list[Row]:
    """Rows that ask everything of every picture and clip."""
    rng = np.random.default_rng((seed, 7))
    still = [
        Row(pictures.pixels[number : number + 1], (scene,), tuple(every_segment(scene, rng)))
        for number, scene in enumerate(pictures.scenes)
    ]
    return still + rows_of_clips(clips, list(range(len(clips.clips))))


def train_captioner(trainer: CaptionerTrainer, check: list[Row], plan: Plan, kept: Path) -> None:
    """Train the captioner in place; the newest weights are kept in `kept` every 250 steps."""
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng((plan.seed, 8))
    model = trainer.model
    model.train()
    tower, heads = Part(model.model.vision_model, 0.5), Part(trainer.readouts.patches, 0.3)
    layers = Part(model.model.language_model.layers, orthogonal=plan.orthogonal)
    descent = Descent(plan, [tower, heads, Part(trainer.context), layers, Part(model)])
    batches, progress = trainer.batches(plan, rng), Progress("captioner")
    for step in range(1, plan.last + 1):
        losses = trainer.losses(next(batches))
        descent.step(step, losses.total(plan))
        progress.note(step, **{name: value.item() for name, value in vars(losses).items()})
        if step % 250 == 0 or step == plan.last:
            print("captioner check", exact_shares(model, trainer.encode, check), flush=True)
            model.save_pretrained(kept)
