"""What the commands that try a generator out can be asked."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.composition import REQUIRED
from pipelines.jobs import Captioner, Decoding, check_text


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
