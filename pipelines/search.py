"""Reading an index: the pictures of a corpus that are nearest to a text, to a file, or to one of them."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.changes import Gone
from pipelines.composition import build
from pipelines.corpus import Corpus, CorpusError, RowMissingError
from pipelines.facts import Hit
from pipelines.index.whole import current_generation, open_index
from pipelines.jobs import SearchConfig
from pipelines.stream import Output, dataset_rows
from pipelines.vectors import StoredVectors
from stages.checkpoints import resolve, weights_digest
from stages.decode import DecodeConfig, DecodeImages, DecodeRun
from stages.embed import EmbedConfig, EmbedImages, EmbedRun, TextEncoder, encoder_view
from stages.index.search import Neighbours, excluding
from stages.index.search import search as search_index
from stages.index.vectors import Ids, Vectors, vectors_of
from stages.schemas import Status, embeddings, shard_of
from stages.towers import Family, family


def search(config: SearchConfig) -> list[Hit]:
    """What the command line asks for. Raises: CorpusError, ModelLoadError, IndexDamaged."""
    corpus = Corpus(config.corpus)
    searcher = Searcher(corpus, config.index or only_index(corpus))
    if config.text is not None:
        return searcher.text(config.text, config.k)
    return searcher.image(str(config.image), config.k)


def only_index(corpus: Corpus) -> str:
    """The name of the index, where there is no choice. Raises: CorpusError."""
    names: list[str] = [info.base_name for info in corpus.entries("index")]
    ready = [name for name in names if current_generation(corpus, name)]
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
        self._index, self._meta = open_index(corpus, name)
        info = corpus.info(self._dataset)
        if info is None or info.fingerprint != self._meta.source.get("embeddings"):
            raise CorpusError(
                f"index {name} is not of the present {self._dataset}: run darkroom nightly again"
            )
        self._info = info
        self._stored = StoredVectors(corpus, self._dataset)
        self._gone = Gone(corpus)
        self._left_out, self._selector = np.empty(0, np.int64), None

    @property
    def reads_text(self) -> bool:
        """Whether the encoder has a text tower."""
        return family(resolve(self._encoder.model, self._encoder.revision)) not in (Family.VIT, Family.DINOV2)

    def text(self, text: str, k: int) -> list[Hit]:
        """The `k` pictures that fit the text best. Raises: CorpusError, ModelLoadError."""
        return self._nearest(self._text_encoder.encode([text]), k)

    def image(self, file: str, k: int) -> list[Hit]:
        """The `k` pictures nearest to that of a file. Raises: CorpusError, ModelLoadError."""
        try:
            data = Path(file).expanduser().read_bytes()
        except OSError as error:
            raise CorpusError(f"{file} cannot be read: {error.strerror}") from error
        output = Output(self._dataset, embeddings(self._meta.dim), "embedding")
        row = dataset_rows(self._image_encoder(self._decoder(_one_row(file, data))), output)
        if row["status"][0].as_py() != Status.OK:
            raise CorpusError(f"{file} cannot be searched for: {row['error'][0].as_py()}")
        return self._nearest(vectors_of(row)[1], k)

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
        candidates = k * self._meta.rerank
        return search_index(
            self._index, query, k, candidates=candidates, fetch=self._stored.fetch, selector=self._selector
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
        """The captions that share the index's name, or the first."""
        names = [info.base_name for info in self._corpus.entries("captions")]
        chosen = self._name if self._name in names else next(iter(names), None)
        return None if chosen is None else f"captions/{chosen}"

    @cached_property
    def _captioned(self) -> frozenset[int]:
        return frozenset(self._corpus.shards(self._captions)) if self._captions else frozenset()

    # The models, as the dataset records them

    @cached_property
    def _encoder(self) -> EmbedConfig:
        recorded: EmbedConfig = build(EmbedConfig, self._info.properties["encoder"], "encoder")
        digest = weights_digest(resolve(recorded.model, recorded.revision))
        if digest != self._info.identity["encoder"]["weights"]:
            raise CorpusError(f"the weights of {recorded.model} are not those that made {self._dataset}")
        return recorded

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        return TextEncoder(self._encoder, EmbedRun())

    @cached_property
    def _image_encoder(self) -> EmbedImages:
        return EmbedImages(self._encoder, EmbedRun(), "query")

    @cached_property
    def _decoder(self) -> DecodeImages:
        recorded = _without_version(self._info.identity["decode"])
        config: DecodeConfig = build(DecodeConfig, recorded, "decode")
        return DecodeImages(config, DecodeRun(), {"query": encoder_view(self._encoder)})


def _without_version(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key != "version"}


def _one_row(file: str, data: bytes) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array([0], pa.int64()),
            "uri": pa.array([file], pa.string()),
            "bytes": pa.array([data], pa.large_binary()),
            "status": pa.array([Status.OK.value], pa.string()),
            "error": pa.array([None], pa.string()),
        }
    )
