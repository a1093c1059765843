"""What is right: captions and labels of images, in the formats that data sets come in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.evaluation.formats import (
    EvaluationError,
    Rows,
    first_of,
    id_in,
    identifier,
    keys_found,
    objects_in,
    read_document,
    rows_with,
)

CAPTION_REFERENCES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("file_name", pa.string()),
        pa.field("reference", pa.list_(pa.string()), nullable=False),
    ]
)
"""A row an image. `key`: its id as the file says. `file_name`: its path, where the file says one beside."""

LABEL_REFERENCES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("file_name", pa.string()),
        pa.field("label", pa.string(), nullable=False),
    ]
)

IMAGE_KEYS = ("image_id", "key", "id", "file_name", "filename", "uri", "image", "path", "url")
_FILE_KEYS = ("file_name", "filename", "uri", "path")
_CAPTION_KEYS = ("references", "reference", "captions", "caption", "texts", "text")
_LABEL_KEYS = ("label", "labels", "class", "category")
_CAPTION_FORMATS = (
    "COCO captions (images, annotations with image_id and caption), a Karpathy split (images with "
    f"sentences), an object of captions by image id, or rows with one of {', '.join(IMAGE_KEYS)} and one of "
    f"{', '.join(_CAPTION_KEYS)}"
)


@dataclass(frozen=True, eq=False)
class References:
    """What a file of references holds. `form`: how it is written; `split`: which part of it.

    `stray`: ids that have references and are none of the images that the file lists. `bare`: how many images
    it lists without a reference.
    """

    rows: pa.Table
    form: str
    split: str | None = None
    stray: tuple[str, ...] = ()
    bare: int = 0

    @property
    def plain(self) -> bool:
        """Whether ids are whatever the writer of the file took for ids."""
        return self.form in ("rows", "object")

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.bare:
            return ()
        return (f"{self.bare:,} images of {self.form} have no caption, and no part in this",)


def read_captions(location: str, split: str | None = None) -> References:
    """References of schema CAPTION_REFERENCES, each image once, in the order of the file.

    `split`: of a Karpathy split, such as `test`. Raises: EvaluationError, one line.
    """
    value = read_document(location)
    if isinstance(value, Mapping) and isinstance(value.get("images"), list):
        if isinstance(value.get("annotations"), list):
            _no_split(location, split)
            return _coco(location, value)
        if any(isinstance(row, Mapping) and "sentences" in row for row in value["images"][:1]):
            return _karpathy(location, value["images"], split)
    _no_split(location, split)
    rows = rows_with(location, value, IMAGE_KEYS, _CAPTION_KEYS)
    if rows is not None:
        return _plain(location, rows)
    if isinstance(value, Mapping) and value and all(is_texts(one) for one in value.values()):
        found = {str(key): texts_of(one) for key, one in value.items()}
        return References(_table(found, {}), "object")
    raise EvaluationError(
        f"{location} has {keys_found(value)}; references of captions must be {_CAPTION_FORMATS}"
    )


def read_labels(location: str) -> References:
    """References of schema LABEL_REFERENCES. Raises: EvaluationError."""
    value = read_document(location)
    rows = rows_with(location, value, IMAGE_KEYS, _LABEL_KEYS)
    if rows is None and isinstance(value, Mapping) and value and all(map(identifier, value.values())):
        rows = Rows([{"key": key, "label": one} for key, one in value.items()], ("key", "label"))
    if rows is None:
        raise EvaluationError(
            f"{location} has {keys_found(value)}; labels must be an object of labels by image id, or rows "
            f"with one of {', '.join(IMAGE_KEYS)} and one of {', '.join(_LABEL_KEYS)}"
        )
    image, named = rows.names
    found: dict[str, str] = {}
    for number, row in enumerate(rows.values, 1):
        key, label = id_in(location, f"row {number}", row, image), identifier(row.get(named))
        if label is None:
            raise EvaluationError(f"{location}, row {number}: {named} must be a name or a number")
        if found.setdefault(key, label) != label:
            raise EvaluationError(f"{location}, row {number}: {key} has two labels, {found[key]} and {label}")
    table = pa.table([list(found), pa.nulls(len(found), pa.string()), list(found.values())], LABEL_REFERENCES)
    return References(table, "rows")


def _coco(location: str, value: Mapping[str, Any]) -> References:
    files = {
        id_in(location, f"images, entry {number}", row, "id"): row.get("file_name")
        for number, row in enumerate(objects_in(location, "images", value["images"]), 1)
    }
    found: dict[str, list[str]] = {key: [] for key in files}
    stray: dict[str, None] = {}
    for number, row in enumerate(objects_in(location, "annotations", value["annotations"]), 1):
        place = f"annotations, entry {number}"
        key, text = id_in(location, place, row, "image_id"), row.get("caption")
        if not isinstance(text, str):
            raise EvaluationError(f"{location}, {place} has {keys_found(row)}: caption must be a text")
        if key in found:
            found[key].append(text)
        else:
            stray[key] = None
    captioned = {key: texts for key, texts in found.items() if texts}
    if not captioned:
        raise EvaluationError(f"{location} has no caption of any of its {len(files):,} images")
    bare = len(found) - len(captioned)
    return References(_table(captioned, files), "COCO captions", None, tuple(stray), bare)


def _karpathy(location: str, images: Sequence[Any], split: str | None) -> References:
    rows = objects_in(location, "images", images)
    splits = sorted({str(row.get("split")) for row in rows})
    if split is None and len(splits) > 1:
        raise EvaluationError(f"{location} is a Karpathy split: set split to one of {', '.join(splits)}")
    if split is not None and split not in splits:
        raise EvaluationError(f"split must be one of {', '.join(splits)} for {location}, got {split}")
    chosen = [row for row in rows if split is None or row.get("split") == split]
    found: dict[str, list[str]] = {}
    files: dict[str, Any] = {}
    for number, row in enumerate(chosen, 1):
        name = first_of(row, ("cocoid", "filename", "imgid"))
        if name is None:
            raise EvaluationError(f"{location}, image {number} has {keys_found(row)}: no cocoid, no filename")
        key = id_in(location, f"image {number}", row, name)
        if key in found:
            raise EvaluationError(f"{location} has two images with {name} {key}")
        files[key] = row.get("filename")
        found[key] = [_raw(location, key, sentence) for sentence in row["sentences"]]
    captioned = {key: texts for key, texts in found.items() if texts}
    bare = len(found) - len(captioned)
    return References(_table(captioned, files), "Karpathy split", split or splits[0], (), bare)


def _raw(location: str, key: str, sentence: Any) -> str:
    text = sentence.get("raw") if isinstance(sentence, Mapping) else None
    if not isinstance(text, str):
        raise EvaluationError(f"{location}: a sentence of image {key} has no text under raw")
    return text


def _plain(location: str, rows: Rows) -> References:
    """Rows of one image may be apart: their captions are joined in the order of the rows."""
    image, texts = rows.names
    found: dict[str, list[str]] = {}
    files: dict[str, Any] = {}
    named = first_of(rows.values[0], [name for name in _FILE_KEYS if name != image])
    for number, row in enumerate(rows.values, 1):
        key = id_in(location, f"row {number}", row, image)
        if not is_texts(row.get(texts)):
            raise EvaluationError(f"{location}, row {number}: {texts} must be a text or a list of texts")
        found.setdefault(key, []).extend(texts_of(row[texts]))
        if named is not None:
            files[key] = row.get(named)
    return References(_table(found, files), "rows")


def is_texts(value: Any) -> bool:
    """Whether it is a text, or a list of one or more; bare, or as the official tokeniser wants them."""
    if isinstance(value, str):
        return True
    return isinstance(value, list) and bool(value) and all(_text(one) is not None for one in value)


def texts_of(value: Any) -> list[str]:
    """The texts of what `is_texts`."""
    found = [_text(one) for one in ([value] if isinstance(value, str) else value)]
    return [text for text in found if text is not None]


def _text(value: Any) -> str | None:
    found = value.get("caption") if isinstance(value, Mapping) else value
    return found if isinstance(found, str) else None


def _table(found: Mapping[str, Sequence[str]], files: Mapping[str, Any]) -> pa.Table:
    named = [identifier(files.get(key)) for key in found]
    columns = zip((list(found), named, list(found.values())), CAPTION_REFERENCES, strict=True)
    return pa.table([pa.array(values, field.type) for values, field in columns], CAPTION_REFERENCES)


def _no_split(location: str, split: str | None) -> None:
    if split is not None:
        raise EvaluationError(f"split={split} is for a Karpathy split, which {location} is not")
