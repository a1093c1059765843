"""`darkroom export`: a corpus as other tools read it."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.changes import tombstones
from pipelines.corpus import Corpus, CorpusError
from pipelines.export.chosen import Chosen, Told, names_of
from pipelines.export.clip_retrieval import export_clip_retrieval
from pipelines.export.hf import export_hf
from pipelines.export.index_file import export_faiss
from pipelines.export.job import Job
from pipelines.export.pictures import Pictures, source_of
from pipelines.export.target import Target
from pipelines.export.texts import export_coco, export_jsonl
from pipelines.export.webdataset import export_webdataset
from pipelines.export_jobs import ExportConfig, ExportFormat
from stages.sources.config import SourceConfig, SourceRun


@dataclass(frozen=True)
class Exported:
    """`left_out` and `without_caption`: items by reason, of which the latter were written all the same.

    `over_rejects`: whether the source lacked more of the images than `max_reject_ratio`.
    """

    to: str
    format: str
    files: int
    written: int
    left_out: dict[str, int]
    without_caption: dict[str, int]
    notes: tuple[str, ...]
    over_rejects: bool


def export(config: ExportConfig, told: Told = lambda done, shards, items: None) -> Exported:
    """Writes the items that are good and not gone. Takes no lock, and disturbs no night.

    Raises: ConfigError before anything is written; CorpusError, IndexDamaged, OSError.
    """
    corpus = Corpus(config.corpus)
    if corpus.info("items") is None:
        raise CorpusError(f"{config.corpus} holds no corpus: make one with darkroom nightly")
    names = names_of(corpus, config)
    source = source_of(corpus, config) if config.format.has_pixels else None
    target = Target(config.to, corpus)
    chosen = Chosen(corpus, names, config)
    target.begin(_state(chosen, config, source), config.overwrite)
    job = Job(corpus, config, chosen, target, told)
    _write(job, source)
    target.end()
    if missed := len(np.setdiff1d(tombstones(corpus), chosen.gone)):
        job.notes.append(f"{missed:,} items went while this ran: to leave them out, run it again")
    over = _check_unread(job)
    left_out = {reason: count for reason, count in sorted(job.tally.left_out.items()) if count}
    without = dict(sorted(job.tally.without_caption.items())) if names.captions else {}
    return Exported(
        to=config.to,
        format=config.format.value,
        files=job.files,
        written=job.tally.written,
        left_out=left_out,
        without_caption=without,
        notes=tuple(job.notes),
        over_rejects=over,
    )


def _check_unread(job: Job) -> bool:
    unread, limit = job.tally.unread, job.config.max_reject_ratio
    wanted = job.tally.written + unread
    if unread <= limit * wanted:
        return False
    job.notes.append(
        f"of {wanted:,} images, the source has {unread:,} no more or not as they were: more than "
        f"max_reject_ratio {limit:g}; once it has them, overwrite=true writes them all"
    )
    return True


def _write(job: Job, source: tuple[SourceConfig, SourceRun] | None) -> None:
    pictures = None if source is None else Pictures(job.corpus, *source)
    match job.config.format:
        case ExportFormat.WEBDATASET:
            assert pictures is not None
            export_webdataset(job, pictures)
        case ExportFormat.HF:
            assert pictures is not None
            export_hf(job, pictures)
        case ExportFormat.CLIP_RETRIEVAL:
            export_clip_retrieval(job)
        case ExportFormat.FAISS:
            export_faiss(job)
        case ExportFormat.COCO:
            export_coco(job)
        case ExportFormat.JSONL:
            export_jsonl(job)


def _state(chosen: Chosen, config: ExportConfig, source: Any) -> dict[str, Any]:
    """Everything that decides what the files hold: where it is another, none of them may stay."""
    asked = {
        key: getattr(config, key) for key in ("format", "where", "rows_per_file", "image_id_key", "rejects")
    }
    datasets = {f"{kind}/{name}" for kind, name in vars(chosen.names).items() if name} | {"items"}
    values = {
        name: [info.fingerprint, chosen.corpus.shards(name)]
        for name in sorted(datasets)
        if (info := chosen.corpus.info(name)) is not None
    }
    read_from = None if source is None else asdict(source[0])
    names = vars(chosen.names)
    return {
        **asked,
        "names": names,
        "values": values,
        "gone": hashlib.sha256(chosen.gone.tobytes()).hexdigest(),
        "source": read_from,
    }
