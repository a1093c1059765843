"""`darkroom fuse`: trains what lets a text model read the features of a vision tower."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from pipelines.text_jobs import FuseConfig
from stages.generators.fusion.config import FusionPlan
from stages.generators.fusion.data import read_examples
from stages.generators.fusion.training import FusionTrainer


@dataclass(frozen=True)
class Fused:
    """What a training left. `loss`: the mean of its last hundred steps, in nats a token."""

    folder: str
    examples: int
    steps: int
    loss: float


def fuse(config: FuseConfig, tell: Callable[[str], None]) -> Fused:
    """Trains the projector into `config.out`, or goes on with the training that was stopped there.

    Raises: FusionError, ModelLoadError.
    """
    out = Path(config.out).expanduser()
    examples = read_examples(Path(config.data).expanduser(), Path(config.images).expanduser())
    plan = FusionPlan(**{field.name: getattr(config, field.name) for field in fields(FusionPlan)})
    trainer = FusionTrainer(plan, config.how, examples)
    loss = trainer.train(out, tell)
    return Fused(str(out), len(examples), trainer.step, round(loss, 4))
