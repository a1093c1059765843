"""Reading an index: the pictures of a corpus that are nearest to a text, to a file, or to one of them."""

from functools import cached_property
from pathlib import Path

import numpy as np

from pipelines.corpus import Corpus, CorpusError
from pipelines.encoders import RecordedEncoder, captions_of
from pipelines.facts import Hit
from pipelines.index.layout import current_generation, names
from pipelines.index_jobs import SearchConfig
from pipelines.nearest import Nearest, Wanted
from stages.index.search import Neighbours
from stages.index.vectors import Ids, Vectors
from stages.schemas import TOLD, Status, shard_of


def search(config: SearchConfig) -> list[Hit]:
    """What the command line asks for. Raises: CorpusError, ModelLoadError, IndexDamaged."""
    corpus = Corpus(config.corpus)
    searcher = Searcher(corpus, config.index or only_index(corpus), config.wanted)
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
    """The current generation of an index, opened once; `wanted` is for all its searches.

    Scores are cosine similarities, exact unless `wanted.rerank` is false. Items that go later are left out
    from the next query on, and compaction disturbs no query. The models load at the first query that needs
    them; `encoder`: one of the same embeddings, whose models may be loaded already.

    Raises: CorpusError, IndexDamaged, WhereError.

        searcher = Searcher(Corpus("corpus"), "siglip", Wanted(where="width >= 1024"))
        for hit in searcher.text("two dogs on a beach", 5): …
    """

    def __init__(
        self, corpus: Corpus, name: str, wanted: Wanted | None = None, encoder: RecordedEncoder | None = None
    ) -> None:
        self._corpus, self._name = corpus, name
        self._nearest = Nearest(corpus, name, wanted)
        self._encoder = encoder or RecordedEncoder(self._nearest.info)

    @property
    def reads_text(self) -> bool:
        """Whether the encoder has a text tower."""
        return self._encoder.reads_text

    def text(self, text: str, k: int) -> list[Hit]:
        """The `k` pictures that fit the text best. Raises: CorpusError, ModelLoadError."""
        return self._found(self._encoder.texts([text]), k)

    def image(self, file: str, k: int) -> list[Hit]:
        """The `k` pictures nearest to that of a file. Raises: CorpusError, ModelLoadError."""
        try:
            data = Path(file).expanduser().read_bytes()
        except OSError as error:
            raise CorpusError(f"{file} cannot be read: {error.strerror}") from error
        return self._found(self._encoder.file(file, data), k)

    def item(self, image_id: int, k: int) -> list[Hit]:
        """The `k` other pictures nearest to one of the corpus. Raises: CorpusError."""
        if image_id in self._nearest.gone():
            raise CorpusError(f"image_id {image_id} is gone from {self._corpus.location}")
        item = np.array([image_id], dtype=np.int64)
        return self._found(self._nearest.stored.fetch(item), k, item)

    def vector(self, vector: Vectors, k: int) -> list[Hit]:
        """The `k` pictures nearest to a vector [dim] of any length. Raises: VectorError, CorpusError."""
        query = np.asarray(vector, np.float32).reshape(1, -1)
        return self._found(query / np.maximum(np.linalg.norm(query), np.finfo(np.float32).tiny), k)

    def _found(self, query: Vectors, k: int, own_ids: Ids | None = None) -> list[Hit]:
        return self._nearest.undisturbed(lambda _: self._hits(self._nearest.find(query, k, own_ids)))

    def _hits(self, found: Neighbours) -> list[Hit]:
        ids = [item for item in found.ids[0].tolist() if item >= 0]
        items = self._corpus.read_rows("items", ids, ["uri", *TOLD.names]).to_pylist()
        return [
            Hit(score=float(score), image_id=id, caption=self._caption(id), **item)
            for id, item, score in zip(ids, items, found.scores[0], strict=False)
        ]

    def _caption(self, item: int) -> str | None:
        """None where the picture has none that is `ok`, or its shard was not captioned yet."""
        dataset = self._captions
        if dataset is None or shard_of(item) not in self._captioned:
            return None
        row = self._corpus.read_rows(dataset, [item], ["caption", "status"]).to_pylist()[0]
        return str(row["caption"]) if row["status"] == Status.OK else None

    @cached_property
    def _captions(self) -> str | None:
        return captions_of(self._corpus, self._name)

    @cached_property
    def _captioned(self) -> frozenset[int]:
        return frozenset(self._corpus.shards(self._captions)) if self._captions else frozenset()
