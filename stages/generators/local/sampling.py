"""Which token comes next, row by row: what a row draws does not depend on the batch it is in."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stages.generators.protocol import Sampling

if TYPE_CHECKING:
    import torch

    from stages.generators.local.grammar import Grammar


def row_seed(seed: int, pictures: Sequence[bytes], prompt: str) -> int:
    """63 bits out of a seed, the digests of the pictures and the prompt: the same in any batch."""
    key = pictures[0] if len(pictures) == 1 else hashlib.blake2b(b"".join(pictures), digest_size=16).digest()
    digest = hashlib.blake2b(prompt.encode(), key=key, salt=seed.to_bytes(16, "big"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") >> 1


class GumbelNoise:
    """A logits processor: the arg max of logits plus Gumbel noise is a draw from their softmax.

    Generation then picks greedily, row by row, from noise that only the row's own seed decides. It is last:
    temperature and top-p have been applied.
    """

    def __init__(self, seeds: Sequence[int], device: "torch.device") -> None:
        import torch

        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, scores: "torch.Tensor") -> "torch.Tensor":
        """`scores` float [rows, vocabulary]."""
        import torch

        noise = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() - noise.log()


class Draws:
    """Temperature, top-p and noise for the rows that sample; the others keep their logits.

    `sampling`, one a row, holds the seed of the row (`row_seed`); a temperature of 0 is greedy.
    """

    def __init__(self, sampling: Sequence[Sampling], device: "torch.device") -> None:
        groups: dict[tuple[float, float], list[int]] = {}
        for row, one in enumerate(sampling):
            if one.temperature > 0:
                groups.setdefault((one.temperature, one.top_p), []).append(row)
        self._groups = [
            (rows, *_warpers(*key), GumbelNoise([sampling[row].seed for row in rows], device))
            for key, rows in groups.items()
        ]

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """`scores` float32 [rows, vocabulary]."""
        if not self._groups:
            return scores
        drawn = scores.clone()
        for rows, temperature, top_p, noise in self._groups:
            drawn[rows] = noise(top_p(input_ids, temperature(input_ids, scores[rows])))
        return drawn


class Chooser:
    """The last logits processor of a batch: lets nothing but the grammar's tokens through, draws, and notes
    how likely the model held what it chose.

    The log-probabilities are of the model's own logits, before grammar, temperature and top-p.
    """

    def __init__(self, draws: Draws, grammar: "Grammar | None") -> None:
        self._draws, self._grammar = draws, grammar
        self._logprobs: list[torch.Tensor] = []

    @property
    def used(self) -> bool:
        return bool(self._logprobs)

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """`scores` float32 [rows, vocabulary]; generation takes the arg max of what this returns."""
        allowed = self._grammar.allowed(scores) if self._grammar else scores
        drawn = self._draws(input_ids, allowed)
        tokens = drawn.argmax(dim=-1)
        chosen = scores.gather(1, tokens[:, None])[:, 0]
        self._logprobs.append(chosen - scores.logsumexp(dim=-1))
        if self._grammar:
            self._grammar.advance(tokens.tolist())
        return drawn

    def mean_logprobs(self, spans: Sequence[slice]) -> list[float | None]:
        """For each row the mean over some of its tokens, in nats; None where there are none."""
        import torch

        if not self.used:
            return [None] * len(spans)
        rows = torch.stack(self._logprobs, dim=1).double().cpu()
        parts = [row[span] for row, span in zip(rows, spans, strict=True)]
        return [float(part.mean()) if len(part) else None for part in parts]


def _warpers(temperature: float, top_p: float) -> tuple[Any, Any]:
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    return TemperatureLogitsWarper(float(temperature)), TopPLogitsWarper(top_p)
