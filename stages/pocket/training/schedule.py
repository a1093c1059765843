"""One optimiser and one learning rate curve for all phases."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Plan:
    """A phase: number of steps, pictures per step, peak learning rate, steps of warm-up, seed."""

    steps: int
    batch: int
    rate: float
    warmup: int = 100
    seed: int = 0


def rate_factor(step: int, plan: Plan) -> float:
    """Linear warm-up, then half a cosine down to 1 % at the last step; steps count from 1."""
    warm = min(1.0, step / plan.warmup)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / plan.steps)))


class Descent:
    """AdamW with the plan's curve; modules may run at a multiple of it; gradients are clipped to norm 1."""

    def __init__(self, plan: Plan, parts: Iterable[tuple[nn.Module, float]]) -> None:
        self.plan = plan
        self.groups: list[dict[str, object]] = []
        self.parameters: list[nn.Parameter] = []
        for module, multiple in parts:
            self._add(module, multiple)
        self.optimiser = torch.optim.AdamW(self.groups, lr=plan.rate, betas=(0.9, 0.98), fused=True)
        self.multiples = [float(str(group["multiple"])) for group in self.groups]

    def _add(self, module: nn.Module, multiple: float) -> None:
        known = {id(parameter) for parameter in self.parameters}
        fresh = [p for p in module.parameters() if p.requires_grad and id(p) not in known]
        self.parameters += fresh
        for decayed in (True, False):
            chosen = [p for p in fresh if (p.ndim >= 2) == decayed]
            if chosen:
                decay = 0.05 if decayed else 0.0
                self.groups.append({"params": chosen, "weight_decay": decay, "multiple": multiple})

    def step(self, number: int, loss: torch.Tensor) -> None:
        """Back-propagate the loss and move; `number` counts from 1."""
        factor = self.plan.rate * rate_factor(number, self.plan)
        for group, multiple in zip(self.optimiser.param_groups, self.multiples, strict=True):
            group["lr"] = factor * multiple
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()


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
