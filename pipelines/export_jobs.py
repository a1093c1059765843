"""What `darkroom export` can be asked."""

from dataclasses import dataclass
from enum import StrEnum

from pipelines.composition import REQUIRED
from pipelines.jobs import Source, check_name, check_text
from pipelines.where import parse_where


class ExportFormat(StrEnum):
    WEBDATASET = "webdataset"  # tars of images with .txt and .json, as img2dataset writes them
    HF = "hf"  # Parquet with an Image feature, as `datasets` loads it
    CLIP_RETRIEVAL = "clip_retrieval"  # vectors, metadata and an index, as clip-back serves them
    FAISS = "faiss"  # one index file of stock faiss
    COCO = "coco"  # captions results of COCO's evaluation
    JSONL = "jsonl"  # one line of JSON an item

    @property
    def has_pixels(self) -> bool:
        return self in (ExportFormat.WEBDATASET, ExportFormat.HF)

    @property
    def has_vectors(self) -> bool:
        return self in (ExportFormat.CLIP_RETRIEVAL, ExportFormat.FAISS)


ORIGINAL = "original"
"""In place of the name of a captions dataset: the captions that came with the source."""

# What of a format only some have a use for.
_ONLY = {
    "captions": tuple(form for form in ExportFormat if form is not ExportFormat.FAISS),
    "embeddings": (ExportFormat.CLIP_RETRIEVAL, ExportFormat.FAISS),
    "answers": (ExportFormat.WEBDATASET, ExportFormat.HF, ExportFormat.JSONL),
    "source": (ExportFormat.WEBDATASET, ExportFormat.HF),
    "rows_per_file": (ExportFormat.WEBDATASET, ExportFormat.HF, ExportFormat.CLIP_RETRIEVAL),
    "image_id_key": (ExportFormat.COCO,),
    "rejects": (ExportFormat.JSONL,),
    "compress": (ExportFormat.JSONL,),
}


@dataclass(frozen=True)
class ExportConfig:
    """The items of a corpus that are good and not gone, as another tool reads them."""

    corpus: str = REQUIRED
    to: str = REQUIRED
    format: ExportFormat = REQUIRED
    captions: str | None = None
    embeddings: str | None = None
    answers: str | None = None
    where: str | None = None
    source: Source | None = None
    rows_per_file: int | None = None
    image_id_key: str | None = None
    rejects: bool = False
    compress: bool = False
    max_reject_ratio: float = 0.2
    overwrite: bool = False

    def __post_init__(self) -> None:
        for key in ("corpus", "to"):
            check_text(key, getattr(self, key))
        for key in ("captions", "embeddings", "answers"):
            if getattr(self, key) is not None:
                check_name(key, getattr(self, key))
        if self.where is not None:
            parse_where(self.where)
        if self.rows_per_file is not None and not 1 <= self.rows_per_file <= 10**9:
            raise ValueError(f"rows_per_file must be from 1 to 1,000,000,000, got {self.rows_per_file}")
        if not 0 <= self.max_reject_ratio <= 1:
            raise ValueError(f"max_reject_ratio must be from 0 to 1, got {self.max_reject_ratio}")
        for key, formats in _ONLY.items():
            if getattr(self, key) and self.format not in formats:
                named = ", ".join(one.value for one in formats)
                raise ValueError(f"{key} must be unset for format {self.format.value}: it is for {named}")
