"""Which datasets a night fills: what identifies the values of each, and the stage that makes them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from pipelines.config import ConfigError
from pipelines.corpus import DatasetInfo, fingerprint
from pipelines.jobs import Captioner, NightlyConfig
from pipelines.reuse import ITEMS
from pipelines.stream import Given, Output
from stages import answer, caption, decode, embed, schemas
from stages.answer import AnswerConfig, AnswerQuestions, answer_view
from stages.base import StageFactory
from stages.caption import CaptionImages, caption_view
from stages.checkpoints import ModelLoadError, resolve, weights_digest
from stages.embed import EmbedImages, embedding_dim, encoder_view
from stages.generators.backends import generator_identity, generator_needs
from stages.questions.columns import answers_schema
from stages.questions.files import load_questions
from stages.questions.plan import QuestionPlan
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


def products(config: NightlyConfig) -> dict[str, Product]:
    """All datasets that the configuration asks for, by name. Loads no model.

    Raises: ConfigError where a checkpoint cannot be found, or cannot read what it would be given.
    """
    found: list[Product] = [_items(config)]
    if config.encoder is not None:
        with _named("encoder.what"):
            found.append(_embeddings(config))
    if config.captioner is not None:
        with _named("captioner.what"):
            found.append(_captions(config))
    if config.answering is not None and config.asks:
        with _named("questions"):
            plan = load_questions(config.questions)
        with _named("answerer.what" if config.answerer else "captioner.what"):
            found.append(_answers(config, config.answering, plan))
    return {product.name: product for product in found}


@contextmanager
def _named(key: str) -> Iterator[None]:
    try:
        yield
    except (ModelLoadError, ValueError) as error:
        raise ConfigError(f"{key}: {error}") from error


def _decoding(config: NightlyConfig) -> dict[str, Any]:
    return {"version": decode.VERSION, **asdict(config.decode.what)}


def _items(config: NightlyConfig) -> Product:
    info = DatasetInfo.of(ITEMS, schemas.ITEMS, {"decode": _decoding(config)})
    return Product(info, Output(ITEMS, schemas.ITEMS))


def _embeddings(config: NightlyConfig) -> ModelProduct:
    assert config.encoder is not None
    what, name = config.encoder.what, f"embeddings/{config.encoder.name}"
    view, dim = encoder_view(what), embedding_dim(what)
    identity = {
        "decode": _decoding(config),
        "view": asdict(view),
        "encoder": {"version": embed.VERSION, "dtype": what.dtype, **_weights(what)},
    }
    schema = schemas.embeddings(dim)
    info = DatasetInfo.of(
        name, schema, identity, dim=dim, metric="cosine", model=what.model, encoder=asdict(what)
    )
    stage = partial(EmbedImages, what, config.encoder.how, view_name(view))
    return ModelProduct(info, Output(name, schema, "embedding"), view, stage)


def _weights(what: Any) -> dict[str, str]:
    """The weights count, and not where they lie or what they are called there."""
    return {"weights": weights_digest(resolve(what.model, what.revision))}


def _generation(config: NightlyConfig, writer: Captioner, **rest: Any) -> dict[str, Any]:
    return {
        "decode": _decoding(config),
        "view": asdict(caption_view(writer.what)),
        "generator": {"version": caption.VERSION, **generator_identity(writer.what.generator)},
        **rest,
    }


def _captions(config: NightlyConfig) -> ModelProduct:
    assert config.captioner is not None
    what, name = config.captioner.what, f"captions/{config.captioner.name}"
    needs = tuple(_given(config, column) for column in generator_needs(what.generator))
    identity = _generation(config, config.captioner, prompt=what.prompt, checks=asdict(what.checks))
    info = DatasetInfo.of(name, schemas.CAPTIONS, identity, model=what.generator.model)
    view = caption_view(what)
    stage = partial(CaptionImages, what, config.captioner.how, view_name(view))
    return ModelProduct(info, Output(name, schemas.CAPTIONS, "caption"), view, stage, needs)


def _answers(config: NightlyConfig, writer: Captioner, plan: QuestionPlan) -> ModelProduct:
    name, own = f"answers/{config.answers or writer.name}", config.context.questions is not None
    what = AnswerConfig(writer.what.generator, plan, writer.what.answer_prompt, asked=own)
    columns = dict.fromkeys(generator_needs(what.generator))
    columns |= dict.fromkeys(["caption"] if plan.needs.captions else [])
    columns |= dict.fromkeys(f"text:{one}" for one in plan.needs.texts)
    asked = {"version": answer.VERSION, "prompt": what.prompt, "checks": asdict(what.checks), **asdict(plan)}
    schema = answers_schema(plan)
    info = DatasetInfo.of(
        name, schema, _generation(config, writer, answers=asked), model=what.generator.model
    )
    stage = partial(AnswerQuestions, what, writer.how, view_name(answer_view(what)))
    needs = tuple(_given(config, column) for column in columns)
    output = Output(name, schema, "answers")
    return ModelProduct(info, output, answer_view(what), stage, needs, grouped=plan.needs.group is not None)


def _given(config: NightlyConfig, column: str) -> Given:
    """Where a column of the stream comes from. Raises: ConfigError where nothing makes it."""
    match column:
        case "caption":
            captions = config.context.captions or (config.captioner and config.captioner.name)
            if captions is None:
                raise ConfigError("context.captions must name a dataset of captions, or captioner be set")
            return Given(f"captions/{captions}", schemas.CAPTIONS, column)
        case "embedding":
            if config.encoder is None:
                raise ConfigError("encoder must be set for what reads embeddings")
            return Given(
                f"embeddings/{config.encoder.name}",
                schemas.embeddings(embedding_dim(config.encoder.what)),
                column,
            )
    name = column.removeprefix("text:")
    return Given(f"captions/{name}", schemas.CAPTIONS, column, text="caption")
