"""What the datasets of a corpus look like: Arrow schemas, status codes, and the arithmetic of image ids."""

from enum import StrEnum

import pyarrow as pa

SHARD_ROWS = 512
ROW_BITS = 20


class Status(StrEnum):
    """How an item, or what a model makes of it, ended. Everything but `ok` comes with an `error` text."""

    OK = "ok"
    MISSING = "missing"  # the source no longer has the bytes that the plan names
    EMPTY = "empty"  # zero bytes
    UNSUPPORTED = "unsupported"  # not an image format that Darkroom reads
    UNREADABLE = "unreadable"  # an image format, but no decoder accepts the bytes
    TRUNCATED = "truncated"  # the bytes end before the picture does
    TOO_LARGE = "too_large"  # more pixels, bytes or memory than allowed
    CRASHED = "crashed"  # the process that decoded it died of it, twice
    TIMEOUT = "timeout"  # decoding it took longer than allowed, twice
    FAILED = "failed"  # the model raises on it, and not on a blank picture
    NOT_ASKED = "not_asked"  # what the question needs is not there: a caption, metadata, what it follows
    UNANSWERED = "unanswered"  # the server has no answer to it, however often it was asked
    NO_TEXT = "no_text"  # the model ends before the first letter
    NO_ANSWER = "no_answer"  # the model thinks, and never gets to its answer
    REPETITIVE = "repetitive"  # the text goes round in a loop
    ECHOED = "echoed"  # the text is the prompt
    REFUSED = "refused"  # the model declines
    INVALID_JSON = "invalid_json"  # the text does not follow the question's schema, also when asked again
    FORGOTTEN = "forgotten"  # the bytes were taken down
    CHANGED = "changed"  # the source's bytes are no longer those that `items` describes


def image_id(shard: int, row: int) -> int:
    """The row address of an item: `shard << 20 | row`, stable for ever."""
    if not 0 <= row < 1 << ROW_BITS:
        raise ValueError(f"row {row} does not fit into {ROW_BITS} bits")
    return shard << ROW_BITS | row


def shard_of(item: int) -> int:
    return item >> ROW_BITS


def row_of(item: int) -> int:
    return item & ((1 << ROW_BITS) - 1)


PLACE = pa.schema(
    [
        pa.field("container", pa.string()),
        pa.field("row_group", pa.int32()),
        pa.field("position", pa.int64()),
    ]
)
"""Where an item is in a file that holds many, the `container`, named below the source; null for other files.

`position`: the first byte of its data in a tar, its row in the `row_group` of a Parquet file.
"""

TOLD = pa.schema([pa.field("original_caption", pa.string()), pa.field("metadata", pa.string())])
"""What the source says of an item beside its bytes. `metadata`: a JSON object, null where there is none."""

PLAN = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("reused_from", pa.int64()),
        *PLACE,
        *TOLD,
    ]
)
"""`size`: -1 where it is not known. `mtime_ns`: of the container, where there is one; -1 where not known.
`reused_from`: an item of the same bytes."""

_OUTCOME = [pa.field("status", pa.string(), nullable=False), pa.field("error", pa.string())]

# original_* as the file header says; height and width as displayed, after the EXIF orientation.
# reused_from: the item of the same bytes whose values this one shares; null where they were computed for it.
ITEMS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("reused_from", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("format", pa.string()),
        pa.field("original_height", pa.int32()),
        pa.field("original_width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        *TOLD,
        *_OUTCOME,
    ]
)

KNOWLEDGE = pa.list_(
    pa.struct([pa.field(name, pa.string(), nullable=False) for name in ("term", "fact", "source")])
)
"""Facts about the terms that an answer mentions."""

# A text whose status is not `ok` (repetitive, refused, …) is kept beside it.
_GENERATED = [
    pa.field("language", pa.string()),
    pa.field("thinking", pa.string()),
    pa.field("finish_reason", pa.string()),
    pa.field("prompt_tokens", pa.int32()),
    pa.field("completion_tokens", pa.int32()),
    pa.field("mean_logprob", pa.float32()),
    pa.field("latency_s", pa.float32()),
    *_OUTCOME,
]

CAPTIONS = pa.schema(
    [pa.field("image_id", pa.int64(), nullable=False), pa.field("caption", pa.string()), *_GENERATED]
)

ANSWERS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("question_id", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("images", pa.list_(pa.int64())),
        pa.field("answer", pa.string()),
        pa.field("knowledge", KNOWLEDGE),
        *_GENERATED,
    ]
)


def embeddings(dim: int) -> pa.Schema:
    """Unit-length float16 vectors; where the status is not `ok`, a list of `dim` nulls.

    A null list in the stream; but those, once in Parquet, no pyarrow up to 25 reads back (arrow#35692).
    """
    return pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            pa.field("embedding", pa.list_(pa.float16(), dim)),
            *_OUTCOME,
        ]
    )


# In the stream a stage adds one column: embeddings and captions as a struct a row, answers as a list of them.
CAPTION_COLUMN = pa.struct([field for field in CAPTIONS if field.name != "image_id"])
ANSWERS_COLUMN = pa.list_(pa.struct([field for field in ANSWERS if field.name != "image_id"]))


def embedding_column(dim: int) -> pa.StructType:
    return pa.struct([field for field in embeddings(dim) if field.name != "image_id"])
