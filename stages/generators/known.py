"""What the stream holds of pictures besides their pixels, for models that are asked with that."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.schemas import Status

CAPTION = "text:caption"
"""The column with captions that another model wrote, for a model that captions from those."""


def embeddings_of(shard: pa.Table) -> list[npt.NDArray[np.float16] | None]:
    """The vector of every row, [dim]; None where it has none, or the stream holds no `embedding`."""
    if "embedding" not in shard.column_names:
        return [None] * len(shard)
    rows = shard["embedding"].to_pylist()
    return [
        np.array(row["embedding"], np.float16) if row and row["status"] == Status.OK else None for row in rows
    ]


def captions_of(shard: pa.Table) -> list[Mapping[str, str]]:
    """For every row the `known` of a request: its caption, if another model wrote one."""
    if CAPTION not in shard.column_names:
        return [{}] * len(shard)
    return [{"caption": text} if text else {} for text in shard[CAPTION].to_pylist()]
