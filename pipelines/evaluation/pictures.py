"""The pictures of items on the page, where the corpus still finds them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipelines.corpus import Corpus, CorpusError
from pipelines.evaluate_jobs import EvaluateConfig
from pipelines.evaluation.facts import Item
from pipelines.source_record import recorded_source
from pipelines.thumbnails import thumbnails
from stages.sources.config import SourceRun


def with_pictures(
    config: EvaluateConfig, corpus: Corpus | None, items: Sequence[Item]
) -> tuple[tuple[Item, ...], str | None]:
    """The items with URI and thumbnail; and why there are no pictures, where that is worth a line."""
    ids = list(dict.fromkeys(item.image_id for item in items if item.image_id is not None))
    if corpus is None or not ids:
        return tuple(items), None
    uris = dict(zip(ids, corpus.read_rows("items", ids, ["uri"])["uri"].to_pylist(), strict=True))
    known: dict[Any, str | None] = {}
    note = None
    try:
        source = config.source.what if config.source else recorded_source(corpus)
        if source is None:
            note = "the page has no pictures: nobody wrote down the corpus's source, set source.path"
        else:
            run = config.source.how if config.source else SourceRun()
            known = thumbnails(corpus, (source, run), config.decode, ids)
    except (CorpusError, OSError, ValueError, KeyError) as error:
        note = f"the page has no pictures: {error}"
    shown = (
        replace(item, uri=uris.get(item.image_id), thumbnail=known.get(item.image_id))
        if item.image_id is not None
        else item
        for item in items
    )
    return tuple(shown), note
