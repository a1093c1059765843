"""What the commands that train a generator or try one out can be asked."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.composition import REQUIRED
from pipelines.jobs import Captioner, Decoding, Format, Source, check_text
from stages.generators.fusion.config import FusionPlan, FusionRun


@dataclass(frozen=True)
class ChatConfig:
    """A conversation about one picture, or several. `model`: another one for the same captioner."""

    image: str = REQUIRED
    captioner: Captioner | None = None
    decode: Decoding = field(default_factory=Decoding)
    model: str | None = None

    def __post_init__(self) -> None:
        check_text("image", self.image)
        if self.captioner is None:
            raise ValueError("captioner must be set: it is the model that answers")
        if self.model is not None:
            check_text("model", self.model)

    @property
    def answering(self) -> Captioner:
        """Who answers, with the model that was asked for."""
        assert self.captioner is not None
        if self.model is None:
            return self.captioner
        what = self.captioner.what
        generator = replace(what.generator, model=self.model, revision=None)
        return replace(self.captioner, what=replace(what, generator=generator))


def files_of(images: str) -> list[str]:
    """The file of this name; or, where there is none, those that its commas part."""
    if Path(images).expanduser().exists():
        return [images]
    return [name.strip() for name in images.split(",") if name.strip()]


@dataclass(frozen=True)
class PreviewConfig:
    """The generators on `n` random images of a source, and nothing of it kept but the page `out`.

    `captioners`: several at once instead of `captioner`, by the names of their options or by their models.
    """

    source: Source = REQUIRED
    decode: Decoding = field(default_factory=Decoding)
    captioner: Captioner | None = None
    captioners: tuple[str, ...] = ()
    answerer: Captioner | None = None
    questions: tuple[str, ...] = ()
    n: int = 8
    seed: int = 0
    out: str = "preview.html"

    def __post_init__(self) -> None:
        check_text("out", self.out)
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if not (self.captioners or self.captioner or self.answerer):
            raise ValueError("captioner, captioners and answerer are all unset: at least one must be set")
        if self.answerer is not None and not self.questions:
            raise ValueError("answerer is set and nothing is asked: set questions")


@dataclass(frozen=True)
class FuseConfig(FusionPlan):
    """What a projector is trained on, and where it goes."""

    vision: str = REQUIRED
    llm: str = REQUIRED
    data: str = REQUIRED
    images: str = REQUIRED
    out: str = REQUIRED
    how: FusionRun = field(default_factory=FusionRun)
    format: Format = Format.TABLE

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("vision", "llm", "data", "images", "out"):
            check_text(key, getattr(self, key))
