"""References held against the images of a corpus, and the texts that are scored."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipelines.corpus import Corpus
from pipelines.evaluation.matching import AUTO, Counted, Found, absent, match_items
from pipelines.evaluation.predictions import items_of


@dataclass(frozen=True, eq=False)
class Matched:
    """`images`: the image id of each reference by its key, None where there is none. `items`: how many images
    the corpus has."""

    found: Found
    images: Mapping[str, int | None]
    items: int

    @property
    def method(self) -> str:
        return self.found.method

    @property
    def beside(self) -> list[str]:
        """What is said of images without references: a corpus may hold more than what is evaluated."""
        more = self.items - self.found.matched
        if not more:
            return []
        return [f"{more:,} of the corpus's {self.items:,} images have no references, and no part in this"]

    def count(self, counted: Counted) -> None:
        """Counts the references for which there is no image, or more than one."""
        absent(counted, list(self.images), self.found)


def match_corpus(corpus: Corpus, references: pa.Table, key: str = AUTO, plain: bool = True) -> Matched:
    """The image that each reference (by the columns `key` and `file_name`, each key once) is of.

    Raises: EvaluationError, for a corpus without images as well.
    """
    items = items_of(corpus)
    found = match_items(items, references, key, plain)
    ids = items["image_id"].to_pylist()
    images = [ids[row] if row >= 0 else None for row in found.rows]
    return Matched(found, dict(zip(references["key"].to_pylist(), images, strict=True)), len(items))


@dataclass(frozen=True, eq=False)
class Texts:
    """Predictions (schema PREDICTIONS, by the keys of the references), the image of each key where it is
    known, by what they were matched, and what a person should know."""

    said: pa.Table
    images: Mapping[str, int | None]
    method: str
    notes: tuple[str, ...] = ()


def with_images(rows: pa.Table, images: Mapping[str, int | None]) -> pa.Table:
    """The column `image_id`, of images by the key of their references."""
    ids = [images.get(key) for key in rows["key"].to_pylist()]
    return rows.append_column("image_id", pa.array(ids, pa.int64()))
