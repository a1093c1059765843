"""Training-only heads that read facts off the models: without them, digits stay unread for hours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.pocket.training.facts import FIELDS, SPANS, UNSAID

GRID = 6
PATCH_FIELDS = ("family", "background", "color", "frame", "cells", "slots", "bars")
POOLED_FIELDS = tuple(name for name in FIELDS if name != "slots")


def fact_loss(logits: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Sum over fields of the mean cross-entropy where the field is stated; targets int64 [batch, WIDTH]."""
    total = torch.zeros(())
    for name, scores in logits.items():
        wanted = targets[:, SPANS[name]]
        stated = wanted != UNSAID
        if bool(stated.any()):
            total = total + F.cross_entropy(scores[stated], wanted[stated])
    return total


def fact_accuracy(logits: dict[str, Tensor], targets: Tensor) -> dict[str, float]:
    """Share of pictures of which every stated entry of a field is read right, by field."""
    shares = {}
    for name, scores in logits.items():
        wanted = targets[:, SPANS[name]]
        rows = (wanted != UNSAID).any(1)
        if bool(rows.any()):
            right = (scores.argmax(-1) == wanted) | (wanted == UNSAID)
            shares[name] = float(right[rows].all(1).float().mean())
    return shares


class PatchReadout(nn.Module):
    """Reads places from the patches that cover them, float [batch, 36, width]: facts stay where they are.

    Cells are 2x2 patches, digits 2x2 patches on the middle rows, bars one column of patches.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, FIELDS[name].classes) for name in PATCH_FIELDS})

    def forward(self, patches: Tensor) -> dict[str, Tensor]:
        """Logits [batch, count, classes] by field."""
        grid = self.norm(patches).unflatten(1, (GRID, GRID)).permute(0, 3, 1, 2)
        overall = grid.mean((2, 3))[:, None]
        regions = {name: overall for name in PATCH_FIELDS}
        regions["cells"] = F.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)
        regions["slots"] = F.avg_pool2d(grid[:, :, 2:4], 2, stride=1).flatten(2).transpose(1, 2)
        regions["bars"] = grid.mean(2).transpose(1, 2)[:, 1:]
        return {name: self.heads[name](region) for name, region in regions.items()}


class ContextReadout(nn.Module):
    """Makes patches say where they are, and cells how often their thing occurs; float [batch, 36, width].

    A tower that is only asked what is in a place forgets to write the place itself into its patches:
    without this loss a linear probe named the right cell for 19 % of them, and "what is in the top left?"
    stayed at 0.55. Counting equal things is spread over nine answers per picture instead of one word.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.place = nn.Linear(width, GRID * GRID)
        self.equals = nn.Linear(width, FIELDS["tally"].classes)

    def forward(self, patches: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropies of patch numbers and of cells' counts; targets int64 [batch, WIDTH]."""
        tokens = self.norm(patches)
        right = torch.arange(GRID * GRID).expand(len(patches), -1)
        place = F.cross_entropy(self.place(tokens).flatten(0, 1), right.flatten())
        cells, tally = targets[:, SPANS["cells"]], targets[:, SPANS["tally"]]
        shown = cells[:, 0] != UNSAID
        if not bool(shown.any()):
            return place, torch.zeros(())
        kinds, counts = cells[shown], tally[shown]
        wanted = counts.gather(1, (kinds - 1).clamp(min=0)).masked_fill(kinds == 0, 0)
        grid = tokens[shown].unflatten(1, (GRID, GRID)).permute(0, 3, 1, 2)
        scores = self.equals(F.avg_pool2d(grid, 2).flatten(2).transpose(1, 2))
        return place, F.cross_entropy(scores.flatten(0, 1), wanted.flatten())


class PooledReadout(nn.Module):
    """Reads every fact linearly from one embedding, float [batch, width].

    Pictures and texts share it, so that both towers have to say the same thing in the same direction.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.fields = POOLED_FIELDS
        self.sizes = [FIELDS[name].count * FIELDS[name].classes for name in self.fields]
        self.head = nn.Linear(width, sum(self.sizes))

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        """Logits [batch, count, classes] by field; only the direction of the embedding matters."""
        unit = F.normalize(pooled, dim=-1) * self.width**0.5
        pieces = self.head(unit).split(self.sizes, dim=1)
        return {
            name: piece.unflatten(1, (FIELDS[name].count, FIELDS[name].classes))
            for name, piece in zip(self.fields, pieces, strict=True)
        }
