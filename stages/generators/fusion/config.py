"""What the training of a projector can be told: the plan changes the weights, the run does not."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from stages.checkpoints import Device
from stages.generators.fusion.model import Reads


@dataclass(frozen=True)
class LoraPlan:
    """Low-rank updates of the text model's linear layers (arXiv:2106.09685), by peft."""

    rank: int = 16
    alpha: int = 32
    rate: float = 2e-4

    def __post_init__(self) -> None:
        _require_positive("lora", asdict(self))


@dataclass(frozen=True)
class FusionPlan:
    """What is trained: everything here changes the weights that come out."""

    vision: str  # pocket:NAME, a checkpoint folder or a hub id
    llm: str
    vision_revision: str | None = None
    llm_revision: str | None = None
    reads: Reads = Reads.PATCHES
    tokens: int = 1  # that one vector becomes: 1 for patches, 10 to 40 for a pooled one
    hidden: int = 2048
    steps: int = 2000
    batch: int = 32
    rate: float = 1e-3
    warmup: int = 100
    seed: int = 0
    autocast: bool = True  # matrix products in bfloat16
    lora: LoraPlan | None = None

    def __post_init__(self) -> None:
        keys = ("tokens", "hidden", "steps", "batch", "rate", "warmup")
        _require_positive("fuse", {key: getattr(self, key) for key in keys})
        if self.seed < 0:
            raise ValueError(f"fuse.seed must be at least 0, got {self.seed}")


@dataclass(frozen=True)
class FusionRun:
    """How it is trained."""

    device: Device = Device.AUTO
    threads: int | None = None
    save_every: int = 250  # steps; what a killed training loses at most
    max_kept_mb: int = 2048  # features that are not computed again when their picture comes again

    def __post_init__(self) -> None:
        _require_positive("how", {"save_every": self.save_every})


def _require_positive(section: str, values: Mapping[str, float]) -> None:
    for key, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{section}.{key} must be above 0, got {value}")
