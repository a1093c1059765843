import torch

from stages.generators.sampling import GumbelNoise, row_seed


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
