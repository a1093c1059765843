"""Rates that `scripts/bench_index.py` measured on one machine, from a file."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


class RatesError(ValueError):
    """A file of rates that cannot be used; the message is one line."""


@dataclass(frozen=True)
class Check:
    """A whole build: seconds of one phase as forecast from the rates, and as measured."""

    vectors: int
    phase: str
    forecast: float
    measured: float

    @property
    def error(self) -> float:
        """Of the forecast: 0.1 where it is a tenth too long."""
        return self.forecast / self.measured - 1


@dataclass(frozen=True)
class Rates:
    """What one core does in a second. A product and a sum are 2 FLOP."""

    hardware: str
    date: str
    dim: int  # of the vectors that all of it was measured with
    factory: str
    product_gflops: float  # matrix products of float32, in faiss
    pairs: float  # distances that are compared, on top of their products: the nearest of all centroids
    hnsw_vectors: float  # whose list an HNSW finds among 65,536 in 96 dimensions
    kmeans_share: float  # of the speed that its products and comparisons alone would have
    encode_gflops: float  # the nearest of 256 codewords for each part of a vector
    codebook_gflops: float  # k-means of the parts of a vector: of the rotation and of the codebook
    exact_pairs: float  # similarities that the exact search looks through, on top of their products
    read_rows: float  # vectors out of Parquet, into batches, as if they had no values
    read_values: float  # their values, float16, on top
    unit_values: float  # float16 to float32 of unit length, checked
    write_bytes: float  # of a unit: vectors into lists, and those with their checksums into a file
    merge_bytes: float  # units into one file of lists, all of them checked
    query_seconds: float  # of a query, whatever it visits
    query_gflops: float  # one query with all centroids: bound by memory
    probe_gflops: float  # the table of distances of one query in one list
    scan_bytes: float  # codes that one query passes
    process_bytes: float  # of a process that has loaded everything, and works on nothing
    checks: tuple[Check, ...] = ()


def read_rates(data: bytes, path: str) -> Rates:
    """Raises: RatesError, naming `path`."""
    try:
        stored = json.loads(data)
        if not isinstance(stored, dict):
            raise RatesError(f"{path} is no file of rates: it holds no object")
        return Rates(**_numbers(stored, path) | {"checks": tuple(Check(**one) for one in stored["checks"])})
    except RatesError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise RatesError(f"{path} is no file of rates: {error}") from error


def _numbers(stored: Mapping[str, Any], path: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(Rates)[:-1]:
        if field.name not in stored:
            raise RatesError(f"{path} lacks {field.name}")
        value = found[field.name] = stored[field.name]
        if field.type in ("str", str):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise RatesError(f"{path}: {field.name} must be a number over 0, got {value}")
    return found
