import pytest
import torch

from stages.generators.local.sampling import Chooser, Draws, GumbelNoise, row_seed
from stages.generators.protocol import Sampling

GREEDY = Sampling(temperature=0.0, top_p=1.0, seed=0)


def test_gumbel_noise_greedy_choice_follows_the_probabilities() -> None:
    rows, shares = 4000, torch.tensor([0.1, 0.2, 0.7])
    noise = GumbelNoise([row_seed(0, [b"picture"], str(row)) for row in range(rows)], torch.device("cpu"))
    chosen = noise(shares.log().expand(rows, 3)).argmax(dim=1)
    found = chosen.bincount(minlength=3) / rows
    assert torch.allclose(found, shares, atol=0.03)  # four standard deviations


def test_gumbel_noise_token_that_was_ruled_out_is_never_chosen() -> None:
    noise = GumbelNoise(range(500), torch.device("cpu"))
    scores = torch.tensor([0.0, -torch.inf, -3.0]).expand(500, 3)
    assert 1 not in noise(scores).argmax(dim=1)


def test_row_seed_depends_on_seed_picture_and_prompt() -> None:
    seeds = [
        row_seed(0, [b"a"], "x"),
        row_seed(1, [b"a"], "x"),
        row_seed(0, [b"b"], "x"),
        row_seed(0, [b"a"], "y"),
    ]
    assert len(set(seeds)) == 4
    assert row_seed(0, [b"a"], "x") == seeds[0]
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_chooser_likelihoods_are_of_the_logits_before_sampling() -> None:
    rows, steps = 200, 3
    scores = torch.randn(rows, 5, generator=torch.Generator().manual_seed(0))
    sampling = [Sampling(temperature=3.0, top_p=0.9, seed=row) if row % 2 else GREEDY for row in range(rows)]
    chooser = Chooser(Draws(sampling, torch.device("cpu")), grammar=None)
    tokens = torch.stack([chooser(torch.empty(rows, 0), scores).argmax(dim=1) for _ in range(steps)], dim=1)
    expected = scores.log_softmax(dim=1).gather(1, tokens)
    found = chooser.mean_logprobs([slice(2)] * rows)
    assert found == pytest.approx(expected[:, :2].mean(dim=1).tolist(), abs=1e-5)
    assert torch.equal(tokens[::2, 0], scores.argmax(dim=1)[::2])
    assert not torch.equal(tokens[1::2, 0], scores.argmax(dim=1)[1::2])
    assert chooser.mean_logprobs([slice(0)] * rows) == [None] * rows
