"""An index as bytes with a checksum: faiss files have none, and a flipped bit answers wrongly in silence."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from stages.index.blas import import_faiss
from stages.index.damage import IndexDamaged as IndexDamaged
from stages.index.recall import Recall


@dataclass(frozen=True)
class IndexMeta:
    """What `meta.json` records beside the bytes of an index."""

    factory: str
    reason: str
    dim: int
    vectors: int
    trained_on: int
    rerank: int
    recall: Recall | None  # None: there were fewer than 2 vectors
    seed: int
    sha256: str = ""
    size: int = 0
    source: Mapping[str, Any] = field(default_factory=dict)  # which embeddings it was built from

    def to_json(self) -> bytes:
        stored = asdict(self)
        return json.dumps({**stored, "checksum": _checksum(stored)}, indent=2).encode()

    @classmethod
    def from_json(cls, text: bytes, name: str = "meta.json") -> "IndexMeta":
        """Raises: IndexDamaged, naming the file."""
        try:
            stored = json.loads(text)
            checksum = stored.pop("checksum", None)
            if checksum not in (None, _checksum(stored)):
                raise ValueError("its checksum is not that of its values")
            recall = stored.pop("recall")
            return cls(recall=None if recall is None else Recall(**recall), **stored)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise IndexDamaged(f"{name} is not the record of an index: {error}") from error


def _checksum(stored: Mapping[str, Any]) -> str:
    """16 hex digits, of the values and not of how they are laid out."""
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()[:16]


def pack_index(index: Any) -> tuple[memoryview, str]:
    """The bytes of an index and their sha256, in hex. Needs the memory of the index twice."""
    data = memoryview(import_faiss().serialize_index(index))
    return data, hashlib.sha256(data).hexdigest()


def unpack_index(data: bytes | memoryview, sha256: str, name: str) -> Any:
    """The index of these bytes, which the file `name` held; ready for search, with its own nprobe.

    Raises: IndexDamaged.
    """
    faiss = import_faiss()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise IndexDamaged(f"{name} is damaged: its sha256 is not the recorded one; build the index again")
    # The tables would be computed again at every load, up to 2 GiB of them, to save a sixth of a search.
    try:
        return faiss.deserialize_index(np.frombuffer(data, np.uint8), faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise IndexDamaged(f"{name} cannot be read by faiss {faiss.__version__}: {reason}") from error
