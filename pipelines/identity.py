"""What identifies the values of a dataset: `_dataset.json`, its fingerprint, and drift from it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.files import CorpusError

ASKED_OF_EACH = "asked_of_each"
"""The property of answers: the `question_id`s that every item has; others stand at some items only."""


class DriftError(CorpusError):
    """A dataset holds the values of another configuration than the current one."""


def fingerprint(identity: Mapping[str, Any]) -> str:
    """16 hex digits over everything that changes a dataset's values, whatever the order of the keys."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class DatasetInfo:
    """What `_dataset.json` records. `identity` is what the fingerprint was taken over."""

    name: str
    identity: Mapping[str, Any]
    columns: Mapping[str, str]
    properties: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)

    @classmethod
    def of(
        cls, name: str, schema: pa.Schema, identity: Mapping[str, Any], **properties: Any
    ) -> "DatasetInfo":
        # Through JSON once, so that an info from a config equals the same info read back.
        return cls(name, json.loads(json.dumps(identity, default=str)), columns_of(schema), properties)

    def to_json(self) -> bytes:
        stored = {**asdict(self), "fingerprint": self.fingerprint}
        return json.dumps({**stored, "checksum": fingerprint(stored)}, indent=2).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "DatasetInfo":
        """Raises: ValueError where the text is not what was written, to the last value."""
        try:
            stored = json.loads(text)
            checksum = stored.pop("checksum", None)
            if checksum not in (None, fingerprint(stored)):
                raise ValueError("its checksum is not that of its values")
            stored.pop("fingerprint")
            return cls(**stored)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not the record of a dataset: {error}") from error


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """Names and types, as `_dataset.json` records them."""
    return {column.name: _type_name(column.type) for column in schema}


def _type_name(kind: pa.DataType) -> str:
    """The same for a type and for what Parquet returns of it: its lists call their values `element`."""
    return str(_renamed(kind))


def _renamed(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_renamed(kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_renamed(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_renamed(field.type)) for field in kind])
    return kind


def check_same(stored: DatasetInfo, wanted: DatasetInfo) -> None:
    """Raises: DriftError, naming what differs."""
    overwrite = f"give it a new name, or drop the old values with overwrite=[{wanted.name}]"
    if stored.fingerprint != wanted.fingerprint:
        old, new = _leaves(stored.identity), _leaves(wanted.identity)
        raise DriftError(
            f"{wanted.name} holds values of fingerprint {stored.fingerprint}, the configuration makes "
            f"{wanted.fingerprint} ({_changes(old, new)}): {overwrite}"
        )
    if stored.columns != wanted.columns:
        raise DriftError(
            f"{wanted.name} has other columns than this version writes "
            f"({_changes(stored.columns, wanted.columns)}): {overwrite}"
        )


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return ", ".join(f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in keys[:4])


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, child in value.items():
        leaves |= _leaves(child, f"{prefix}.{key}" if prefix else str(key))
    return leaves
