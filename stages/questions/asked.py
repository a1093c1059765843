"""Questions about single pictures, from a file: what a data set of questions and answers brings along."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

_KINDS = {"uri": pa.string(), "image_id": pa.int64(), "question": pa.string(), "name": pa.string()}

# An empty cell is one that is missing.
_AS_KINDS = pyarrow.csv.ConvertOptions(column_types=_KINDS, null_values=[""], strings_can_be_null=True)


def read_asked(path: str) -> pa.Table:
    """One row a question: `uri` (string) or `image_id` (int64), `question`, and `name` (null: its number).

    From Parquet, JSON lines or CSV; other columns are left out. The texts are questions, not templates.
    Raises: ValueError, one line that names the file and the row.
    """
    table = _read(path)
    keys = [key for key in ("uri", "image_id") if key in table.column_names]
    if len(keys) != 1 or "question" not in table.column_names:
        raise ValueError(
            f"{path} must have the column question, and one of uri and image_id; "
            f"it has {', '.join(table.column_names) or 'none of them'}"
        )
    if "name" not in table.column_names:
        table = table.append_column("name", pa.nulls(len(table), pa.string()))
    columns = {name: _trimmed(table[name]) for name in (keys[0], "question", "name")}
    for name in (keys[0], "question"):
        row = pc.index(pc.is_null(columns[name]), True).as_py()
        if row >= 0:
            raise ValueError(f"{path}, row {row + 1}: {name} must not be empty")
    asked = pa.table(columns)
    _require_distinct_names(path, asked, keys[0])
    return asked


def _read(path: str) -> pa.Table:
    """Only the columns of `_KINDS`, as those kinds."""
    try:
        match Path(path).suffix:
            case ".parquet":
                file = pq.ParquetFile(path)
                names = [name for name in file.schema_arrow.names if name in _KINDS]
                table = file.read(names)
                return table.cast(pa.schema([(name, _KINDS[name]) for name in names]))
            case ".jsonl":
                return _read_lines(path)
            case ".csv":
                table = pyarrow.csv.read_csv(path, convert_options=_AS_KINDS)
                return table.select([name for name in table.column_names if name in _KINDS])
    except (OSError, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ValueError(f"{path} cannot be read: {' '.join(reason.split())}") from error
    raise ValueError(f"questions about single pictures are in a .parquet, .jsonl or .csv file, got {path}")


def _read_lines(path: str) -> pa.Table:
    """Columns that no line has come out as nulls, and are left out."""
    parsed = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema(list(_KINDS.items())), unexpected_field_behavior="ignore"
    )
    table = pyarrow.json.read_json(path, parse_options=parsed)
    return table.select([name for name in _KINDS if table[name].null_count < len(table)])


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_string(column.type):
        return column
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)


def _require_distinct_names(path: str, asked: pa.Table, key: str) -> None:
    counts = asked.drop_null().group_by([key, "name"]).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1)).to_pylist()
    if twice:
        raise ValueError(f"{path}: {key} {twice[0][key]} has two questions with the name {twice[0]['name']}")
