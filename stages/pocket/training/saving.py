"""Writes the packaged folders: standard layout, float16 weights that load as float32."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import (
    DeepseekVLForConditionalGeneration,
    DeepseekVLImageProcessorPil,
    DeepseekVLProcessor,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

from stages.generators.fusion.model import FUSION, PROJECTOR
from stages.pocket.training.pictures import SIDE
from stages.pocket.training.segments import IMAGE_TOKENS
from stages.pocket.training.tokenizer import captioner_tokenizer, encoder_tokenizer

SQUARE = {"height": SIDE, "width": SIDE}
HALF = (0.5, 0.5, 0.5)


def _save_halved(model: PreTrainedModel, folder: Path) -> None:
    """Halves what lies on disk; config.json keeps saying float32, so that nobody computes in float16."""
    model.float().save_pretrained(folder)
    path = folder / "model.safetensors"
    halved = {name: value.to(torch.float16) for name, value in load_file(path).items()}
    save_file(halved, path, metadata={"format": "pt"})


def save_encoder(model: SiglipModel, bpe: Tokenizer, folder: Path) -> None:
    """Write the dual encoder with its processor; texts are padded to the tokenizer's model_max_length."""
    _save_halved(model, folder)
    images = SiglipImageProcessorPil(size=SQUARE, image_mean=HALF, image_std=HALF)
    SiglipProcessor(images, encoder_tokenizer(bpe)).save_pretrained(folder)


def save_captioner(model: DeepseekVLForConditionalGeneration, bpe: Tokenizer, folder: Path) -> None:
    """Write the captioner with its processor, chat template and generation settings."""
    _save_halved(model, folder)
    tokenizer = captioner_tokenizer(bpe)
    DeepseekVLProcessor(
        image_processor=DeepseekVLImageProcessorPil(size=SQUARE, image_mean=HALF, image_std=HALF),
        tokenizer=tokenizer,
        num_image_tokens=IMAGE_TOKENS,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)


def save_reasoner(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the reasoner with its tokenizer, chat template and generation settings."""
    _save_halved(model, folder)
    tokenizer.save_pretrained(folder)


def save_fusion(trained: Path, folder: Path) -> None:
    """Write the projector of a finished training, halved, and what it joins."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(trained / FUSION, folder / FUSION)
    halved = {name: value.to(torch.float16) for name, value in load_file(trained / PROJECTOR).items()}
    save_file(halved, folder / PROJECTOR)
