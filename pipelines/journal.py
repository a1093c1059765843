"""Folders of numbered Parquet files, to which files are only added: `NAME/NAME-000001.parquet`."""

import re

import pyarrow as pa

from pipelines.corpus import Corpus, write_parquet


def files(corpus: Corpus, name: str) -> list[str]:
    """The file names, in the order in which they were written."""
    pattern = re.compile(rf"{name}-\d{{6}}\.parquet")
    return [info.base_name for info in corpus.entries(name) if pattern.fullmatch(info.base_name)]


def next_file(corpus: Corpus, name: str, ahead: int = 0) -> str:
    """The name that follows those that are there, and `ahead` more to be written before it."""
    last = files(corpus, name)[-1:]
    number = int(last[0].removesuffix(".parquet").rpartition("-")[2]) if last else 0
    return f"{name}-{number + 1 + ahead:06d}.parquet"


def append(corpus: Corpus, name: str, table: pa.Table) -> None:
    """One more file, sorted by its first column, atomically; none where the table is empty."""
    if len(table):
        write_parquet(corpus, table.sort_by(table.column_names[0]), name, next_file(corpus, name))


def read_all(corpus: Corpus, name: str, schema: pa.Schema) -> pa.Table:
    """All rows in the order in which they were written."""
    tables = [corpus.read_parquet(name, file) for file in files(corpus, name)]
    return pa.concat_tables(tables) if tables else schema.empty_table()
