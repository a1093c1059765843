"""The shipped weights: they load strictly, are small, and know held-out pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText

from stages.pocket import CHECKPOINTS, checkpoint, language
from stages.pocket.training import evaluation
from stages.pocket.training.evaluation import Asked, Gallery, Loaded

SEED = 21
# Saving writes float16; a config that said so would make every program compute in it.
STORED, COMPUTED = torch.float16, torch.float32


@cache
def _encoder() -> Loaded:
    return evaluation.load(checkpoint("encoder"), AutoModel)


@cache
def _captioner() -> Loaded:
    return evaluation.load(checkpoint("captioner"), AutoModelForImageTextToText)


@cache
def _shown() -> Gallery:
    return evaluation.gallery(SEED, 100)


def test_weights_together_take_at_most_25_megabytes() -> None:
    folders = [checkpoint(name) for name in CHECKPOINTS]
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) <= 25_000_000


def test_load_packaged_models_compute_in_float32() -> None:
    assert {_encoder().model.dtype, _captioner().model.dtype} == {COMPUTED}


def test_load_folder_with_a_weight_missing_is_refused(tmp_path: Path) -> None:
    for path in checkpoint("encoder").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {STORED}
    del weights["logit_scale"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="logit_scale"):
        evaluation.load(tmp_path, AutoModel)


def test_encoder_held_out_details_find_their_pictures() -> None:
    scores = evaluation.recall(_encoder(), _shown())
    assert scores["detailed text to image, recall@1"].share >= 0.8
    assert scores["detailed text to image, recall@10"].share >= 0.95


@pytest.mark.parametrize("side", ["left", "right"])
def test_encoder_either_side_of_padding_finds_the_kind_of_picture(side: str) -> None:
    tokenizer, shown = _encoder().processor.tokenizer, _shown()
    words = tokenizer(["a sign", "a bar chart"], padding="max_length", padding_side=side, return_tensors="pt")
    with torch.no_grad():
        text = _encoder().model.get_text_features(input_ids=words.input_ids).pooler_output
    similarity = text @ evaluation.image_features(_encoder(), shown.pictures).T
    families = np.array([scene.family for scene in shown.scenes])
    best = similarity.topk(8, dim=1).indices.numpy()
    assert (families[best[0]] == "sign").all()
    assert (families[best[1]] == "chart").all()


def test_captioner_held_out_captions_are_mostly_exact() -> None:
    shown = _shown()
    asked = [
        Asked((picture,), language.CAPTION_PROMPT, language.captions(scene)[0], "caption")
        for scene, picture in zip(shown.scenes, shown.pictures, strict=True)
    ]
    assert evaluation.exact(_captioner(), asked)["caption"].share >= 0.88


def test_captioner_held_out_answers_are_mostly_exact_of_every_type() -> None:
    scores = evaluation.exact(_captioner(), evaluation.question_tasks(_shown(), SEED)[::3])
    assert scores["answer, all"].share >= 0.94
    assert min(score.share for score in scores.values() if score.count >= 20) >= 0.75


def test_captioner_batch_answers_as_it_does_alone() -> None:
    tasks = evaluation.question_tasks(evaluation.gallery(SEED, 3), SEED)[:12]
    together = evaluation.answer(_captioner(), tasks)
    assert together == [evaluation.answer(_captioner(), [task])[0] for task in tasks]
