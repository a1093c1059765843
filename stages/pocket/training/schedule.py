"""One optimiser and one learning rate curve for all phases."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Plan:
    """One descent: pictures per step, peak learning rate, seed, and the curve of the rate.

    The curve is `steps` long; `stop` ends the descent before the curve does, for a shorter one to take over.
    `readout` and `context` are weights of the training-only heads; `orthogonal` puts Muon on the language
    model.
    """

    steps: int
    batch: int
    rate: float
    warmup: int = 100
    seed: int = 0
    stop: int | None = None
    readout: float = 0.25
    context: float = 0.0
    orthogonal: bool = False

    @property
    def last(self) -> int:
        """The last step, counted from 1."""
        return self.steps if self.stop is None else self.stop


def rate_factor(step: int, plan: Plan) -> float:
    """Linear warm-up, then half a cosine down to 1 % at the last step; steps count from 1."""
    warm = min(1.0, step / plan.warmup)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / plan.steps)))


@dataclass(frozen=True)
class Part:
    """A module that moves at a multiple of the rate; its matrices by Muon where `orthogonal`.

    Muon's updates are scaled to the size of AdamW's, so that one rate serves both.
    """

    module: nn.Module
    multiple: float = 1.0
    orthogonal: bool = False


class Descent:
    """AdamW, and Muon where asked, on the plan's curve; gradients are clipped to norm 1."""

    def __init__(self, plan: Plan, parts: Iterable[Part]) -> None:
        self.plan = plan
        self.parameters: list[nn.Parameter] = []
        groups: list[dict[str, Any]] = []
        for part in parts:
            groups += self._groups(part)
        plain = [group for group in groups if not group["orthogonal"]]
        matrices = [group for group in groups if group["orthogonal"]]
        self.optimisers: list[torch.optim.Optimizer] = []
        if plain:
            self.optimisers.append(torch.optim.AdamW(plain, lr=plan.rate, betas=(0.9, 0.98), fused=True))
        if matrices:
            self.optimisers.append(torch.optim.Muon(matrices, lr=plan.rate, adjust_lr_fn="match_rms_adamw"))

    def _groups(self, part: Part) -> list[dict[str, Any]]:
        """What earlier parts have not taken: matrices with weight decay, the rest without."""
        known = {id(parameter) for parameter in self.parameters}
        fresh = [p for p in part.module.parameters() if p.requires_grad and id(p) not in known]
        self.parameters += fresh
        flat = {"params": [p for p in fresh if p.ndim < 2], "weight_decay": 0.0, "orthogonal": False}
        deep = {"params": [p for p in fresh if p.ndim >= 2], "weight_decay": 0.05}
        groups = [deep | {"orthogonal": part.orthogonal}, flat]
        return [group | {"multiple": part.multiple} for group in groups if group["params"]]

    def step(self, number: int, loss: torch.Tensor) -> None:
        """Back-propagate the loss and move; `number` counts from 1."""
        rate = self.plan.rate * rate_factor(number, self.plan)
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * group["multiple"]
            optimiser.step()


class Progress:
    """Running means of losses, printed every `every` steps with the CPU-seconds of this phase."""

    def __init__(self, phase: str, every: int = 50) -> None:
        self.phase, self.every = phase, every
        self.means: dict[str, float] = {}
        self.began = time.process_time()

    @property
    def cpu_seconds(self) -> float:
        """CPU-seconds since the phase began."""
        return time.process_time() - self.began

    def note(self, step: int, **values: float) -> None:
        """Take in the values of one step."""
        for name, value in values.items():
            self.means[name] = 0.95 * self.means.get(name, value) + 0.05 * value
        if step % self.every == 0:
            shown = " ".join(f"{name} {mean:.3f}" for name, mean in self.means.items())
            print(f"{self.phase} step {step} cpu {self.cpu_seconds:.0f}s {shown}", flush=True)


def shuffled(count: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of indices below `count`, each epoch in a new order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator).tolist()
        for start in range(0, count - batch + 1, batch):
            yield order[start : start + batch]
