"""The encoder that made a dataset of embeddings, as the dataset records it: for queries that come later."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipelines.composition import build
from pipelines.corpus import Corpus, CorpusError, DatasetInfo
from pipelines.stream import Output, dataset_rows
from stages.checkpoints import resolve, weights_digest
from stages.decode import DecodeConfig, DecodeImages, DecodeRun
from stages.embed import EmbedConfig, EmbedImages, EmbedRun, TextEncoder, encoder_view
from stages.index.vectors import Vectors, vectors_of
from stages.schemas import Status, embeddings
from stages.towers import reads_text


class RecordedEncoder:
    """Each model loads at the first query that needs it.

    Raises, then: CorpusError where the weights are not those that made the dataset, or it names no encoder;
    ModelLoadError.
    """

    def __init__(self, info: DatasetInfo) -> None:
        self._info = info

    @cached_property
    def config(self) -> EmbedConfig:
        """As it was recorded."""
        dataset, recorded = self._info.name, self._info.properties.get("encoder")
        if recorded is None:
            raise CorpusError(f"{dataset} does not record the encoder that made it")
        config: EmbedConfig = build(EmbedConfig, recorded, "encoder")
        digest = weights_digest(resolve(config.model, config.revision))
        if digest != self._info.identity["encoder"]["weights"]:
            raise CorpusError(f"the weights of {config.model} are not those that made {dataset}")
        return config

    @property
    def reads_text(self) -> bool:
        """Whether it has a text tower."""
        return reads_text(resolve(self.config.model, self.config.revision))

    def texts(self, texts: Sequence[str]) -> Vectors:
        """float32 [texts, dim], unit length."""
        return self._texts.encode(texts)

    def file(self, name: str, data: bytes) -> Vectors:
        """[1, dim] of an image file. Raises: CorpusError where it cannot be embedded."""
        output = Output(self._info.name, embeddings(int(self._info.properties["dim"])), "embedding")
        row = dataset_rows(self._images(self._decoder(_one_row(name, data))), output)
        if row["status"][0].as_py() != Status.OK:
            raise CorpusError(f"{name} cannot be searched for: {row['error'][0].as_py()}")
        return vectors_of(row)[1]

    @cached_property
    def _texts(self) -> TextEncoder:
        return TextEncoder(self.config, EmbedRun())

    @cached_property
    def _images(self) -> EmbedImages:
        return EmbedImages(self.config, EmbedRun(), "query")

    @cached_property
    def _decoder(self) -> DecodeImages:
        recorded = _without_version(self._info.identity["decode"])
        config: DecodeConfig = build(DecodeConfig, recorded, "decode")
        return DecodeImages(config, DecodeRun(), {"query": encoder_view(self.config)})


def captions_of(corpus: Corpus, name: str) -> str | None:
    """The captions that share the name of an index, or the first there are."""
    names = [info.base_name for info in corpus.entries("captions")]
    chosen = name if name in names else next(iter(names), None)
    return None if chosen is None else f"captions/{chosen}"


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
