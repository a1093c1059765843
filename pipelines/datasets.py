"""Which datasets a night fills: what identifies the values of each, and the stage that makes them."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

from pipelines.answering import answers
from pipelines.config import ConfigError
from pipelines.corpus import DatasetInfo
from pipelines.jobs import NightlyConfig
from pipelines.product import ModelProduct, Product, decoding, generation, given, named, read_by, view_name
from pipelines.reuse import ITEMS
from pipelines.stream import Output
from stages import embed, schemas
from stages.caption import CaptionImages, caption_view
from stages.checkpoints import resolve, weights_digest
from stages.embed import EmbedImages, embedding_dim, encoder_view
from stages.generators.backends import generator_needs
from stages.generators.known import CAPTION


def products(config: NightlyConfig) -> dict[str, Product]:
    """All datasets that the configuration asks for, by name. Loads no model.

    Raises: ConfigError where a checkpoint cannot be found, or cannot read what it would be given.
    """
    found: dict[str, Product] = {ITEMS: _items(config)}
    if config.encoder is not None:
        with named("encoder.what"):
            embedded = _embeddings(config)
        found[embedded.name] = embedded
    if config.captioner is not None:
        with named("captioner.what"):
            captioned = _captions(config, found)
        found[captioned.name] = captioned
    if config.answering is not None and config.asks:
        with named("answerer.what" if config.answerer else "captioner.what"):
            answered = answers(config, config.answering, found)
        found[answered.name] = answered
    return found


def _items(config: NightlyConfig) -> Product:
    info = DatasetInfo.of(ITEMS, schemas.ITEMS, {"decode": decoding(config)})
    return Product(info, Output(ITEMS, schemas.ITEMS))


def _embeddings(config: NightlyConfig) -> ModelProduct:
    assert config.encoder is not None
    what, name = config.encoder.what, f"embeddings/{config.encoder.name}"
    view, dim = encoder_view(what), embedding_dim(what)
    # The weights count, and not where they lie or what they are called there.
    weights = weights_digest(resolve(what.model, what.revision))
    identity = {
        "decode": decoding(config),
        "view": asdict(view),
        "encoder": {"version": embed.VERSION, "dtype": what.dtype, "weights": weights},
    }
    schema = schemas.embeddings(dim)
    info = DatasetInfo.of(
        name, schema, identity, dim=dim, metric="cosine", model=what.model, encoder=asdict(what)
    )
    stage = partial(EmbedImages, what, config.encoder.how, view_name(view))
    return ModelProduct(info, Output(name, schema, "embedding"), view, stage)


def _captions(config: NightlyConfig, made: Mapping[str, Product]) -> ModelProduct:
    assert config.captioner is not None
    what, name = config.captioner.what, f"captions/{config.captioner.name}"
    columns = {CAPTION if one == "caption" else one for one in generator_needs(what.generator)}
    needs = tuple(given(config, column) for column in sorted(columns))
    if any(need.dataset == name for need in needs):
        raise ConfigError(f"context.captions must be other captions than {name}, which are made from them")
    reads = read_by(config, needs, made)
    identity = generation(
        config, config.captioner, prompt=what.prompt, checks=asdict(what.checks), reads=reads
    )
    info = DatasetInfo.of(name, schemas.CAPTIONS, identity, model=what.generator.model)
    view = caption_view(what)
    stage = partial(CaptionImages, what, config.captioner.how, view_name(view))
    return ModelProduct(info, Output(name, schemas.CAPTIONS, "caption"), view, stage, needs)
