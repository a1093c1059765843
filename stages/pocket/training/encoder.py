"""Phase two: the dual encoder; every text of a batch is checked on every picture, so its labels are exact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel, SiglipVisionModel

from stages.pocket import language
from stages.pocket.scenes import pick
from stages.pocket.training.claims import Claimed, detailed, loose
from stages.pocket.training.facts import Facts, facts, holds
from stages.pocket.training.pictures import CLUSTER, PictureSet, as_input
from stages.pocket.training.readout import fact_loss
from stages.pocket.training.schedule import Descent, Part, Plan, Progress, shuffled
from stages.pocket.training.tokenizer import BOS, EOS, PAD, TEXT_LENGTH
from stages.pocket.training.vision import ATTENTION, TOWER, WIDTH, Readouts, read_accuracy

TEXT_TOWER = {
    "hidden_size": 160,
    "intermediate_size": 480,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "max_position_embeddings": TEXT_LENGTH,
    "projection_size": WIDTH,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}


@dataclass(frozen=True)
class Losses:
    """The parts of one step's loss: sigmoid over all pairs, text to image, readouts of texts and pictures."""

    pairs: Tensor
    retrieval: Tensor
    texts: Tensor
    pictures: Tensor

    def total(self, readout: float) -> Tensor:
        """What is minimised; the readouts are sums over 19 fields, hence their smaller weight."""
        return self.pairs + self.retrieval + readout * (self.texts + self.pictures)


def build(tower: SiglipVisionModel, vocabulary: int) -> SiglipModel:
    """A SigLIP model around a trained vision tower."""
    config = SiglipConfig(text_config={**TEXT_TOWER, "vocab_size": vocabulary}, vision_config=dict(TOWER))
    config._attn_implementation = ATTENTION
    model = SiglipModel(config)
    model.vision_model.load_state_dict(tower.state_dict())
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10.0))
        model.logit_bias.fill_(-5.0)
    return model


def tokens(tokenizer: PreTrainedTokenizerFast, texts: list[str], side: str = "right") -> Tensor:
    """int64 [texts, TEXT_LENGTH]; always padded to that length: SigLIP pools the last position."""
    batch = tokenizer(
        texts,
        padding="max_length",
        max_length=TEXT_LENGTH,
        truncation=True,
        padding_side=side,
        return_tensors="pt",
    )
    return torch.as_tensor(batch.input_ids)


def mixed_batches(pictures: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Half of each batch are whole clusters of near-identical scenes, half any pictures."""
    clusters = shuffled(pictures // CLUSTER, batch // 2 // CLUSTER, seed)
    singles = shuffled(pictures, batch - batch // 2, seed + 1)
    while True:
        whole = [CLUSTER * index + member for index in next(clusters) for member in range(CLUSTER)]
        yield whole + next(singles)


def pair_losses(similarity: Tensor, truth: Tensor, model: SiglipModel) -> tuple[Tensor, Tensor]:
    """Sigmoid loss with positives and negatives weighing the same per text, and text-to-image softmax.

    similarity float [texts, pictures] is the cosine; truth bool of the same shape.
    """
    logits = similarity * model.logit_scale.exp() + model.logit_bias
    each = F.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
    right = (each * truth).sum(1) / truth.sum(1).clamp(min=1)
    wrong = (each * ~truth).sum(1) / (~truth).sum(1).clamp(min=1)
    # Some true picture has to win each text: what recall measures.
    found = torch.logsumexp(logits.masked_fill(~truth, -1e9), 1)
    missed = torch.logsumexp(logits, 1) - found
    return 0.5 * (right + wrong).mean(), missed.mean()


class EncoderTrainer:
    """Holds what every step needs: model, tokenizer, readouts, pictures and their facts."""

    def __init__(
        self, model: SiglipModel, tokenizer: PreTrainedTokenizerFast, readouts: Readouts, pictures: PictureSet
    ) -> None:
        self.model, self.tokenizer, self.readouts, self.pictures = model, tokenizer, readouts, pictures
        self.facts: Facts = np.stack([facts(scene) for scene in pictures.scenes])

    def texts(self, index: list[int], rng: np.random.Generator) -> tuple[list[str], Facts]:
        """Two texts per picture, one of them detailed, and their claims int8 [texts, facts.WIDTH]."""
        scenes = [self.pictures.scenes[number] for number in index]
        claimed: list[Claimed] = [detailed(scene) for scene in scenes] + [
            loose(scene, rng) for scene in scenes
        ]
        return [text for text, _ in claimed], np.stack([stated for _, stated in claimed])

    def losses(self, index: list[int], rng: np.random.Generator) -> Losses:
        """All losses of one batch of pictures."""
        words, claims = self.texts(index, rng)
        # Programs that generate pad on the left, and load every processor so: both sides have to work.
        ids = tokens(self.tokenizer, words, side=pick(rng, ("left", "right")))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = self.model.vision_model(pixel_values=as_input(self.pictures.pixels[index]))
            read = self.model.text_model(input_ids=ids)
        image, text = seen.pooler_output.float(), read.pooler_output.float()
        similarity = F.normalize(text, dim=-1) @ F.normalize(image, dim=-1).T
        truth = torch.from_numpy(holds(claims, self.facts[index]))
        pairs, retrieval = pair_losses(similarity, truth, self.model)
        targets = torch.from_numpy(self.facts[index]).long()
        local = fact_loss(self.readouts.patches(seen.last_hidden_state.float()), targets)
        whole = fact_loss(self.readouts.pooled(image), targets)
        said = fact_loss(self.readouts.pooled(text), torch.from_numpy(claims).long())
        return Losses(pairs, retrieval, said, local + whole)


@torch.no_grad()
def recalls(model: SiglipModel, tokenizer: PreTrainedTokenizerFast, pictures: PictureSet) -> dict[str, float]:
    """Share of detailed captions whose own picture is among the first 1 and 10, by side of padding."""
    model.eval()
    image = model.get_image_features(pixel_values=as_input(pictures.pixels)).pooler_output
    texts = [language.detail(scene) for scene in pictures.scenes]
    shares: dict[str, float] = {}
    for side in ("left", "right"):
        text = model.get_text_features(input_ids=tokens(tokenizer, texts, side)).pooler_output
        similarity = F.normalize(text, dim=-1) @ F.normalize(image, dim=-1).T
        ranks = (similarity > similarity.diagonal()[:, None]).sum(1)
        shares |= {f"{side} recall@{k}": round(float((ranks < k).float().mean()), 3) for k in (1, 10)}
    model.train()
    return shares


def train_encoder(trainer: EncoderTrainer, check: PictureSet, plan: Plan, kept: Path) -> SiglipModel:
    """Train both towers; the newest weights are kept in `kept` every 200 steps."""
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng((plan.seed, 6))
    model, heads = trainer.model, trainer.readouts
    model.train()
    parts = [Part(model.vision_model), Part(model.text_model)]
    # What is left of the model are the scale and the bias of the logits: two numbers with a long way to go.
    parts += [Part(heads.patches, 0.4), Part(heads.pooled, 0.4), Part(model, 5.0)]
    descent, progress = Descent(plan, parts), Progress("encoder")
    batches = mixed_batches(len(trainer.pictures.scenes), plan.batch, plan.seed)
    for step in range(1, plan.last + 1):
        parts_of_loss = trainer.losses(next(batches), rng)
        descent.step(step, parts_of_loss.total(plan.readout))
        progress.note(
            step,
            pairs=parts_of_loss.pairs.item(),
            retrieval=parts_of_loss.retrieval.item(),
            texts=parts_of_loss.texts.item(),
            pictures=parts_of_loss.pictures.item(),
            scale=model.logit_scale.exp().item(),
        )
        if step % 200 == 0 or step == plan.last:
            print("encoder check", recalls(model, trainer.tokenizer, check), flush=True)
            model.save_pretrained(kept)
            heads.save(kept / "readouts.pt")
    print("encoder check", read_accuracy(model.vision_model, heads, check), flush=True)
    return model
