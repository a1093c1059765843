"""A dataset that a night fills: what identifies its values, where they are in the stream, what makes them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.config import ConfigError
from pipelines.corpus import Corpus, DatasetInfo, fingerprint
from pipelines.jobs import Captioner, NightlyConfig
from pipelines.stream import Given, Output
from stages import caption, decode, schemas
from stages.base import StageFactory
from stages.caption import caption_view
from stages.checkpoints import ModelLoadError
from stages.embed import embedding_dim
from stages.generators.backends import generator_identity
from stages.resize import ResizeConfig


@dataclass(frozen=True)
class Product:
    """One dataset: what identifies its values, and what of the stream it holds."""

    info: DatasetInfo
    output: Output

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def kind(self) -> str:
        """`items`, `embeddings`, `captions` or `answers`."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class ModelProduct(Product):
    """A dataset that a model makes: the view of the images that its stage reads, and the stage.

    `needs`: what the stage reads of other datasets. `tags`: the stage that tags the images for it. `grouped`:
    it asks about several images at once, also such of other shards.
    """

    view: ResizeConfig
    stage: StageFactory
    needs: tuple[Given, ...] = ()
    tags: StageFactory | None = None
    grouped: bool = False

    @property
    def view_name(self) -> str:
        """Equal views have one name, so that datasets that read the same pixels share them."""
        return view_name(self.view)


def given_to(made: Sequence[ModelProduct]) -> list[Given]:
    """What these need of datasets that none of them makes, a column each."""
    names = {product.name for product in made}
    needs = (need for product in made for need in product.needs)
    return list({need.column: need for need in needs if need.dataset not in names}.values())


def view_name(view: ResizeConfig) -> str:
    return fingerprint(asdict(view))


@contextmanager
def named(key: str) -> Iterator[None]:
    """What is wrong with a section is said with its key."""
    try:
        yield
    except (ModelLoadError, ValueError) as error:
        raise ConfigError(f"{key}: {error}") from error


def decoding(config: NightlyConfig) -> dict[str, Any]:
    return {"version": decode.VERSION, **asdict(config.decode.what)}


def generation(config: NightlyConfig, writer: Captioner, **rest: Any) -> dict[str, Any]:
    return {
        "decode": decoding(config),
        "view": asdict(caption_view(writer.what)),
        "generator": {"version": caption.VERSION, **generator_identity(writer.what.generator)},
        **rest,
    }


def read_by(config: NightlyConfig, needs: Sequence[Given], made: Mapping[str, Product]) -> dict[str, str]:
    """Fingerprints of the datasets that a stage reads: where those hold other values, it makes other ones.

    `made`: what the night makes itself. Raises: ConfigError for a dataset that is neither made nor there.
    """
    found = {}
    for name in sorted({need.dataset for need in needs}):
        info = made[name].info if name in made else Corpus(config.corpus).info(name)
        if info is None:
            raise ConfigError(
                f"{config.corpus} has no {name}, which is to be read, and this night makes none"
            )
        found[name] = info.fingerprint
    return found


def given(config: NightlyConfig, column: str) -> Given:
    """Where a column of the stream comes from. Raises: ConfigError where nothing makes it."""
    context, encoder = config.context, config.encoder
    match column:
        case "caption":
            captions = context.captions or (config.captioner and config.captioner.name)
            if captions is None:
                raise ConfigError("context.captions must name a dataset of captions, or captioner be set")
            return Given(f"captions/{captions}", schemas.CAPTIONS, column)
        case "text:caption":
            if context.captions is None:
                raise ConfigError("context.captions must name the captions that the captioner reads")
            return Given(f"captions/{context.captions}", schemas.CAPTIONS, column, text="caption")
        case "embedding":
            if encoder is None:
                raise ConfigError("encoder must be set for what reads embeddings")
            schema = schemas.embeddings(embedding_dim(encoder.what))
            return Given(f"embeddings/{encoder.name}", schema, column)
    name = column.removeprefix("text:")
    return Given(f"captions/{name}", schemas.CAPTIONS, column, text="caption")
