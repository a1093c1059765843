"""The answers that a night asks for: the questions, who answers them, and what else these read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.config import ConfigError
from pipelines.context import Known, read_asked, read_metadata
from pipelines.corpus import Corpus, DatasetInfo
from pipelines.identity import ASKED_OF_EACH
from pipelines.jobs import Captioner, NightlyConfig
from pipelines.metadata import lacking, shown_keys, told_parts
from pipelines.product import ModelProduct, Product, generation, given, named, read_by, view_name
from pipelines.stream import Output
from stages import answer, tags
from stages.answer import AnswerConfig, AnswerQuestions, answer_view
from stages.base import StageFactory
from stages.checkpoints import resolve
from stages.embed import TextEncoder
from stages.generators.backends import generator_needs
from stages.questions.columns import answers_schema
from stages.questions.files import load_questions
from stages.questions.knowledge import load_knowledge
from stages.sources.listing import Listing
from stages.tags import TagImages, Vocabulary
from stages.towers import reads_text


def answers(config: NightlyConfig, writer: Captioner, made: Mapping[str, Product]) -> ModelProduct:
    """`made`: the other datasets of the night. Raises: ConfigError, ModelLoadError, ValueError."""
    with named("questions"):
        plan, own = load_questions(config.questions), config.context.questions is not None
    with named("knowledge"):
        known = load_knowledge(config.knowledge) if config.knowledge else None
    what = AnswerConfig(
        writer.what.generator, plan, writer.what.answer_prompt, writer.what.checks, known, own
    )
    tagged = _tags(config) if plan.needs.tags else None
    columns = {
        *generator_needs(what.generator),
        *(["caption"] if plan.needs.captions else []),
        *(["embedding"] if tagged else []),
        *(f"text:{one}" for one in plan.needs.texts),
    }
    needs = tuple(given(config, column) for column in sorted(columns))
    name, schema = f"answers/{config.answers or writer.name}", answers_schema(plan)
    facts = {"model": what.generator.model, ASKED_OF_EACH: plan.asked_of_each}
    asked = _asked(config, what, tagged) | {"reads": read_by(config, needs, made)}
    info = DatasetInfo.of(name, schema, generation(config, writer, answers=asked), **facts)
    # Pictures of the same bytes need not have the same metadata, questions or neighbours.
    output = Output(name, schema, "answers", shareable=not (own or plan.needs.beyond_pixels))
    return ModelProduct(
        info,
        output,
        answer_view(what),
        partial(AnswerQuestions, what, writer.how, view_name(answer_view(what))),
        needs,
        tagged,
        grouped=plan.needs.group is not None,
    )


def _asked(config: NightlyConfig, what: AnswerConfig, tagged: StageFactory | None) -> dict[str, Any]:
    """What identifies answers. Questions of single images and metadata are data, as the images are."""
    return {
        "version": answer.VERSION,
        "prompt": what.prompt,
        "checks": asdict(what.checks),
        "knowledge": what.knowledge.digest if what.knowledge else None,
        "tags": {"version": tags.VERSION, **asdict(_vocabulary(config))} if tagged else None,
        **asdict(what.plan),
    }


def _tags(config: NightlyConfig) -> StageFactory:
    """Raises: ConfigError where there are no labels, or no encoder that could tell them apart."""
    if config.encoder is None:
        raise ConfigError("encoder must be set for {tags}: labels are compared with embeddings")
    encoder = config.encoder.what
    if not reads_text(resolve(encoder.model, encoder.revision)):
        raise ConfigError(f"encoder.what.model must read texts for {{tags}}, {encoder.model} does not")
    return partial(TagImages, _vocabulary(config), partial(TextEncoder, encoder, config.encoder.how))


def _vocabulary(config: NightlyConfig) -> Vocabulary:
    wanted = config.context.tags
    if wanted is None:
        raise ConfigError("context.tags.labels must name a file of labels, one a line, for {tags}")
    try:
        lines = Path(wanted.labels).expanduser().read_text("utf-8").splitlines()
        return Vocabulary(
            tuple(line.strip() for line in lines if line.strip()), wanted.count, wanted.template
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"context.tags: {wanted.labels}: {error}") from error


def known_of(config: NightlyConfig, corpus: Corpus, listing: Listing) -> Known:
    """What the files of the context hold. Raises: CorpusError; ConfigError for questions that read what
    neither they nor the source say of any image.
    """
    if not config.asks:
        return Known()
    needs, context = load_questions(config.questions).needs, config.context
    metadata = read_metadata(context.metadata) if needs.metadata and context.metadata else None
    columns = () if metadata is None else metadata.column_names
    _check_said(config, corpus, listing, [name for name in needs.metadata if name not in columns])
    asked = read_asked(context.questions) if context.questions else None
    return Known(metadata, asked, needs.group)


def _check_said(config: NightlyConfig, corpus: Corpus, listing: Listing, names: Sequence[str]) -> None:
    """`names`: of metadata, those that no file has. Of a source without images nothing is asked."""
    caption = load_questions(config.questions).needs.original_caption
    if not (names or caption) or not (listing.items or corpus.entries("plan")):
        return
    absent = lacking(told_parts(corpus, listing), caption, names)
    if not absent:
        return
    source, file = config.source.path, config.context.metadata
    where = f"neither {file} nor {source} says" if file else f"{source} does not say"
    raise ConfigError(
        f"questions need {', '.join(absent)}, which {where} of any image "
        f"(the source says {shown_keys(told_parts(corpus, listing))}); "
        "context.metadata may be a file with more"
    )
