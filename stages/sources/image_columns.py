"""Which column of a Parquet file holds images, and which of its leaves."""

import pyarrow as pa

from stages.sources.as_json import is_binary, is_text


class NoImageColumnError(ValueError):
    """The message is one line that names the columns there are."""


def is_image_column(kind: pa.DataType) -> bool:
    """Bytes, or a struct of `bytes` and perhaps a `path`, as Hugging Face's datasets has it."""
    if not pa.types.is_struct(kind):
        return is_binary(kind)
    at = kind.get_field_index("bytes")
    return at >= 0 and is_binary(kind.field(at).type)


def image_column(schema: pa.Schema, wanted: str | None) -> str:
    """Raises: NoImageColumnError."""
    found = [field.name for field in schema if is_image_column(field.type)]
    if wanted in found or (wanted is None and len(found) == 1):
        return wanted or found[0]
    there = ", ".join(f"{field.name} ({_told(field.type)})" for field in schema)
    if wanted is not None:
        raise NoImageColumnError(f"source.column must be of bytes, or of URIs; {wanted} is not among {there}")
    if found:
        raise NoImageColumnError(f"source.column must say which of {', '.join(found)} holds the images")
    raise NoImageColumnError(f"no column of image bytes among {there}; source.column may name one of URIs")


def _told(kind: pa.DataType) -> str:
    return "struct" if pa.types.is_struct(kind) else "list" if pa.types.is_list(kind) else str(kind)


def image_leaves(schema: pa.Schema, column: str) -> list[str]:
    """The columns of the file that hold the bytes and the path."""
    kind = schema.field(column).type
    if not pa.types.is_struct(kind):
        return [column]
    return [f"{column}.{name}" for name in ("bytes", *(["path"] if has_path(kind) else []))]


def has_path(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    at = kind.get_field_index("path")
    return at >= 0 and is_text(kind.field(at).type)
