"""What the recall of an index is measured with: held-out images, and texts where the encoder reads them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.corpus import Corpus, fingerprint
from pipelines.index.kept import kept
from pipelines.index.layout import WORK
from pipelines.index.survey import Survey
from pipelines.index.texts import read_texts, text_queries
from stages.index.arrays import pack_arrays, unpack_arrays
from stages.index.config import IndexConfig
from stages.index.exact import Kind, Queries, join_queries, queries_of


def make_queries(
    corpus: Corpus, name: str, asked: Mapping[str, Any], seen: Survey, config: IndexConfig
) -> tuple[Queries, str]:
    """Images and after them texts, and why there are no texts; kept on the way, for units depend on them.

    Raises: IndexConfigError.
    """

    def make() -> bytes:
        images = queries_of(Kind.IMAGE, *seen.queries)
        texts = text_queries(corpus, name, config, seen.queries[0])
        queries = images if texts.queries is None else join_queries([images, texts.queries])
        return pack_arrays(
            ids=queries.ids, vectors=queries.vectors, kinds=queries.kinds, note=np.array(texts.note)
        )

    settings = {"recall_queries": config.recall_queries, "texts": read_texts(config)}
    path = ("index", name, WORK, f"queries-{fingerprint({**asked, **settings})}")
    stored = unpack_arrays(kept(corpus, path, make), corpus.path(*path))
    vectors = stored["vectors"].astype(np.float32, copy=False)
    queries = Queries(stored["ids"].astype(np.int64, copy=False), vectors, stored["kinds"].astype(np.str_))
    return queries, str(stored["note"])
