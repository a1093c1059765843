"""Reading an index: the pictures of a corpus that are nearest to a text, to a file, or to one of them."""

from functools import cached_property
from pathlib import Path

import numpy as np

from pipelines.changes import Gone
from pipelines.corpus import Corpus, CorpusError, RowMissingError
from pipelines.encoders import RecordedEncoder, captions_of
from pipelines.facts import Hit
from pipelines.index.layout import current_generation, names
from pipelines.index.opened import open_index
from pipelines.jobs import SearchConfig
from pipelines.vectors import StoredVectors
from stages.index.curve import Measured
from stages.index.search import Neighbours
from stages.index.searchable import search as search_index
from stages.index.selectors import excluding
from stages.index.vectors import Ids, Vectors
from stages.schemas import shard_of


def search(config: SearchConfig) -> list[Hit]:
    """What the command line asks for. Raises: CorpusError, ModelLoadError, IndexDamaged."""
    corpus = Corpus(config.corpus)
    searcher = Searcher(corpus, config.index or only_index(corpus))
    if config.text is not None:
        return searcher.text(config.text, config.k)
    return searcher.image(str(config.image), config.k)


def only_index(corpus: Corpus) -> str:
    """The name of the index, where there is no choice. Raises: CorpusError."""
    ready = [name for name in names(corpus) if current_generation(corpus, name)]
    if len(ready) == 1:
        return ready[0]
    if not ready:
        raise CorpusError(f"{corpus.location} has no index: run darkroom nightly first")
    raise CorpusError(f"{corpus.location} has several indexes, choose one of index={', index='.join(ready)}")


class Searcher:
    """The current generation of an index, opened once. Scores are cosine similarities, exact.

    Items that go later are left out from the next query on, and compaction disturbs no query.
    The models load at the first query that needs them. Raises: CorpusError, IndexDamaged.
    """

    def __init__(self, corpus: Corpus, name: str) -> None:
        import torch  # noqa: F401  before faiss, whose OpenMP is another one

        self._corpus, self._name, self._dataset = corpus, name, f"embeddings/{name}"
        opened = open_index(corpus, name)
        self._index, self._meta = opened.index, opened.meta
        measured = opened.meta.measured
        self._measured = None if measured is None else Measured.from_dict(measured)
        info = corpus.info(self._dataset)
        if info is None or info.fingerprint != self._meta.embeddings:
            raise CorpusError(
                f"index {name} is not of the present {self._dataset}: run darkroom nightly again"
            )
        self._encoder = RecordedEncoder(info)
        self._stored = StoredVectors(corpus, self._dataset)
        self._gone = Gone(corpus)
        self._left_out, self._selector = np.empty(0, np.int64), None

    @property
    def reads_text(self) -> bool:
        """Whether the encoder has a text tower."""
        return self._encoder.reads_text

    def text(self, text: str, k: int) -> list[Hit]:
        """The `k` pictures that fit the text best. Raises: CorpusError, ModelLoadError."""
        return self._nearest(self._encoder.texts([text]), k)

    def image(self, file: str, k: int) -> list[Hit]:
        """The `k` pictures nearest to that of a file. Raises: CorpusError, ModelLoadError."""
        try:
            data = Path(file).expanduser().read_bytes()
        except OSError as error:
            raise CorpusError(f"{file} cannot be read: {error.strerror}") from error
        return self._nearest(self._encoder.file(file, data), k)

    def item(self, image_id: int, k: int) -> list[Hit]:
        """The `k` other pictures nearest to one of the corpus. Raises: CorpusError."""
        if image_id in self._gone.look():
            raise CorpusError(f"image_id {image_id} is gone from {self._corpus.location}")
        query = self._stored.fetch(np.array([image_id], dtype=np.int64))
        return self._nearest(query, k, other_than=image_id)

    def _nearest(self, query: Vectors, k: int, other_than: int = -1) -> list[Hit]:
        while True:
            gone = self._gone.look()
            try:
                found = self._find(query, k + (other_than >= 0), gone)
                others = found.ids[0] != other_than
                return self._hits(Neighbours(found.ids[:, others][:, :k], found.scores[:, others][:, :k]))
            except RowMissingError:
                # Between the look and the reading of its rows an item went, and was compacted away.
                if len(self._gone.look()) == len(gone):
                    raise

    def _find(self, query: Vectors, k: int, gone: Ids) -> Neighbours:
        if gone is not self._left_out:
            self._left_out, self._selector = gone, excluding(gone)
        nprobe, k_factor = (
            (1, 1) if self._measured is None else (self._measured.nprobe, self._measured.k_factor)
        )
        return search_index(
            self._index,
            query,
            k,
            nprobe=nprobe,
            candidates=k * k_factor,
            fetch=self._stored.fetch,
            selector=self._selector,
        )

    def _hits(self, found: Neighbours) -> list[Hit]:
        ids = [item for item in found.ids[0].tolist() if item >= 0]
        uris = self._corpus.read_rows("items", ids, ["uri"])["uri"].to_pylist()
        return [
            Hit(float(score), item, uri, self._caption(item))
            for item, uri, score in zip(ids, uris, found.scores[0], strict=False)
        ]

    def _caption(self, item: int) -> str | None:
        """None where the picture has none, or its shard was not captioned yet."""
        dataset = self._captions
        if dataset is None or shard_of(item) not in self._captioned:
            return None
        caption = self._corpus.read_rows(dataset, [item], ["caption"])["caption"][0].as_py()
        return None if caption is None else str(caption)

    @cached_property
    def _captions(self) -> str | None:
        return captions_of(self._corpus, self._name)

    @cached_property
    def _captioned(self) -> frozenset[int]:
        return frozenset(self._corpus.shards(self._captions)) if self._captions else frozenset()
