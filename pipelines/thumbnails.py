"""Small pictures for pages, read from the source again: a corpus keeps no pixels."""

from collections.abc import Sequence

import pyarrow as pa

from pipelines.corpus import Corpus
from pipelines.jobs import Decoding
from pipelines.plan import planned_rows
from pipelines.report import thumbnail
from pipelines.reuse import item_digests
from stages.base import Image, unpack_views
from stages.decode import DecodeImages
from stages.resize import Policy, ResizeConfig
from stages.sources.config import SourceConfig, SourceRun
from stages.sources.kinds import reader

_SIZE = 240


def thumbnails(
    corpus: Corpus, source: tuple[SourceConfig, SourceRun], decode: Decoding, ids: Sequence[int]
) -> dict[int, str | None]:
    """Data URIs of `report.thumbnail` by image id; None for what cannot be decoded.

    Raises: KeyError for an id that is gone; OSError.
    """
    view = ResizeConfig(policy=Policy.FIT, size=_SIZE)
    stage = DecodeImages(decode.what, decode.how, {"thumbnail": view})
    rows, digests = planned_rows(corpus, ids), item_digests(corpus, pa.array(ids, pa.int64()))
    # A server may say something else by now.
    read = reader(*source)(rows.append_column("expected_sha256", digests))
    images: list[Image | None] = unpack_views(stage(read), "thumbnail")
    return {
        item: None if image is None else thumbnail(image, _SIZE)
        for item, image in zip(ids, images, strict=True)
    }
