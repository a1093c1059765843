"""The parts of the recipe that must be right before any weight moves."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from stages.pocket import language, scenes
from stages.pocket.scenes import Chart, Shapes, Sign, Thing
from stages.pocket.training import claims, pictures, segments, tokenizer
from stages.pocket.training.facts import claim, facts, holds
from stages.pocket.training.readout import ContextReadout, PatchReadout, fact_loss
from stages.pocket.training.schedule import Descent, Part, Plan, rate_factor


@cache
def _bpe() -> Tokenizer:
    return tokenizer.train_bpe(seed=0, count=300)


def _truth(text_of: scenes.Scene, told: scenes.Scene) -> bool:
    return bool(holds(claims.detailed(text_of)[1][None], facts(told)[None])[0, 0])


def test_claims_of_a_scene_hold_of_it() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        scene = scenes.sample(rng)
        said = [claims.detailed(scene), claims.captioned(scene, rng), *claims.concepts(scene, rng)]
        stated = np.stack([vector for _, vector in said])
        assert holds(stated, facts(scene)[None]).all()


def test_claims_detailed_holds_of_that_scene_alone() -> None:
    rng = np.random.default_rng(2)
    found = [scene for _ in range(20) for scene in pictures.cluster(rng)]
    said = np.stack([claims.detailed(scene)[1] for scene in found])
    truth = holds(said, np.stack([facts(scene) for scene in found]))
    assert truth.tolist() == [[one == other for other in found] for one in found]


def test_claims_captioned_shapes_leaves_places_open() -> None:
    here, there = (Shapes("white", (Thing(row, 0, "red", "star"),)) for row in (0, 2))
    _, stated = claims.captioned(here, np.random.default_rng(3))
    assert holds(stated[None], facts(there)[None]).all()
    assert not _truth(here, there)


def test_claim_about_another_family_does_not_hold() -> None:
    three_bars = claim(steps=3)
    assert not holds(three_bars[None], facts(Sign("123", "red", "white", "round"))[None]).any()
    assert holds(three_bars[None], facts(Chart((1, 2, 3), "red"))[None]).all()


def test_vary_changes_at_most_one_respect_and_keeps_the_family() -> None:
    rng = np.random.default_rng(4)
    for _ in range(300):
        scene = scenes.sample(rng)
        other = pictures.vary(scene, rng)
        assert other.family == scene.family
        if isinstance(scene, Shapes) and isinstance(other, Shapes):
            assert len(set(scene.things) - set(other.things)) <= 1
        assert facts(other).shape == facts(scene).shape


def test_tokenizer_any_text_comes_back_and_fits() -> None:
    words = tokenizer.encoder_tokenizer(_bpe())
    rng = np.random.default_rng(5)
    for _ in range(300):
        text = language.detail(scenes.sample(rng))
        ids = words(text).input_ids
        assert words.decode(ids, skip_special_tokens=True) == text
        assert len(ids) <= tokenizer.TEXT_LENGTH


def test_tokenizer_digits_are_never_merged() -> None:
    words = tokenizer.captioner_tokenizer(_bpe())
    assert words.tokenize("742") == ["7", "4", "2"]


def test_chat_template_image_comes_first_and_the_answer_is_opened() -> None:
    words = tokenizer.captioner_tokenizer(_bpe())
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]
    text = words.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|><image>what is it?<|assistant|>"


def test_pack_segments_see_the_images_and_their_own_past_only() -> None:
    encode = segments.encoder_of(tokenizer.captioner_tokenizer(_bpe()))
    parts = (
        segments.Segment("how many bars are there?", "3", "count"),
        segments.Segment("red?", "no", "yesno"),
    )
    row = segments.Row(np.zeros((1, 96, 96, 3), np.uint8), (), parts)
    batch = segments.pack([row], encode)
    seen = batch.mask()[0, 0] == 0
    first, second = (int(torch.nonzero(batch.segment[0] == number)[0]) for number in (1, 2))
    assert seen[second].nonzero().flatten().tolist() == [*range(first), second]
    assert batch.positions[0, first] == batch.positions[0, second] == first
    told = batch.ids[0][batch.labels[0] != segments.IGNORED].tolist()
    assert told == [*encode("3"), tokenizer.EOS, *encode("no"), tokenizer.EOS]


def test_as_input_maps_bytes_to_minus_one_to_one() -> None:
    pixels = np.array([0, 255], np.uint8).repeat(3).reshape(1, 1, 2, 3)
    assert pictures.as_input(pixels)[0, 0, 0].tolist() == pytest.approx([-1.0, 1.0])


def test_shrink_every_filter_keeps_the_picture() -> None:
    flat = np.full((300, 300, 3), (220, 40, 40), np.uint8)
    rng = np.random.default_rng(6)
    for _ in range(20):
        small = pictures.shrink(flat, rng)
        assert small.shape == (96, 96, 3)
        assert np.abs(small.astype(int) - flat[:96, :96]).max() <= 6


def test_rate_factor_warms_up_then_falls_to_one_hundredth() -> None:
    plan = Plan(steps=1000, batch=1, rate=1.0, warmup=100)
    factors = [rate_factor(step, plan) for step in range(1, 1001)]
    assert max(factors) == pytest.approx(factors[99], rel=0.01)
    assert factors[0] == pytest.approx(0.01, rel=0.01)
    assert factors[-1] == pytest.approx(0.01)


def test_patch_readout_learns_where_things_are_from_patches_that_show_them() -> None:
    torch.manual_seed(7)
    rng = np.random.default_rng(7)
    targets = torch.from_numpy(np.stack([facts(scenes.sample(rng)) for _ in range(16)])).long()
    # Patches that carry one random vector per (picture, patch): enough to tell them apart by heart.
    patches, readout = torch.randn(16, 36, 48), PatchReadout(48)
    descent = Descent(Plan(steps=40, batch=16, rate=0.03, warmup=5), [Part(readout)])
    first = fact_loss(readout(patches), targets).item()
    for step in range(1, 41):
        descent.step(step, fact_loss(readout(patches), targets))
    assert fact_loss(readout(patches), targets).item() < first / 2


def test_fact_loss_unsaid_entries_cost_nothing() -> None:
    readout = PatchReadout(48)
    silent = torch.full((2, len(claim())), -1)
    assert fact_loss(readout(torch.randn(2, 36, 48)), silent).item() == 0.0


def test_context_readout_pictures_without_things_have_places_only() -> None:
    torch.manual_seed(8)
    targets = torch.from_numpy(facts(Chart((1, 2, 3), "red"))[None]).long()
    places, equals = ContextReadout(48)(torch.randn(1, 36, 48), targets)
    assert places.item() > 0
    assert equals.item() == 0.0


def test_descent_orthogonal_part_moves_its_matrix_in_every_direction_alike() -> None:
    torch.manual_seed(9)
    layer = torch.nn.Linear(16, 16, bias=False)
    before = layer.weight.detach().clone()
    target = torch.randn(16, 16)
    descent = Descent(Plan(steps=10, batch=1, rate=0.01, warmup=1), [Part(layer, orthogonal=True)])
    descent.step(1, ((layer.weight - target) ** 2).sum())
    strengths = torch.linalg.svdvals(layer.weight.detach() - before)
    assert strengths.min() > 0.3 * strengths.max()
