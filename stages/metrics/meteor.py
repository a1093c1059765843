"""METEOR (Denkowski and Lavie 2014) by its own program, which needs Java and brings tables of paraphrases.

The COCO caption evaluation runs METEOR 1.5 as `meteor-1.5.jar - - -stdio -l en -norm`, and so does this.
Where the program or Java is absent there is no METEOR: nothing else gives its numbers. The program aligns
and counts; what it makes of the counts is a formula, done here, so that it can be done for resamples too.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from stages.metrics.ngrams import Captions
from stages.metrics.scores import Float64, Scores

JAR = "meteor-1.5.jar"
_HEAP = "-Xmx2G"
# Of METEOR 1.5 for English: recall over precision, the penalty's exponent and weight, content over function
# words, and what a match counts that is exact, of one stem, a synonym, a paraphrase.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_MATCHERS = np.array([1.0, 0.6, 0.8, 0.6])
# Of an item: both lengths, both numbers of function words, four counts a matcher, chunks, words matched.
_STATISTICS = 23


class MeteorMissing(Exception):
    """METEOR cannot be run here; one line says what is absent."""


def find_jar(given: Path | None = None) -> Path:
    """The program: `given`, or the one of an installed pycocoevalcap.

    Raises: MeteorMissing where there is none, or no Java to run it.
    """
    if shutil.which("java") is None:
        raise MeteorMissing("METEOR needs Java, and there is no `java` on the PATH")
    if given is None:
        found = importlib.util.find_spec("pycocoevalcap")
        places = (found.submodule_search_locations or []) if found else []
        given = next((Path(place) / "meteor" / JAR for place in places), None)
    if given is None:
        raise MeteorMissing(f"METEOR needs {JAR}: name the file, or install pycocoevalcap")
    if not given.is_file():
        raise MeteorMissing(f"METEOR needs {JAR}, and there is no {given}")
    return given


def meteor(captions: Captions, jar: Path) -> Scores:
    """METEOR of the whole set, from statistics that are summed over the items; `jar` from `find_jar`.

    Raises: MeteorMissing where the program ends early.
    """
    command = ["java", "-jar", _HEAP, jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    with subprocess.Popen(
        command,
        cwd=jar.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        try:
            rows = _statistics(captions, program.stdin, program.stdout)
        finally:
            program.kill()
    counts = np.array(rows, np.float64).reshape(-1, _STATISTICS)
    # One chunk that is all of both texts is not in pieces at all; the program counts it so too.
    counts[(counts[:, 20] == 1) & (counts[:, 21:] == counts[:, :2]).all(axis=1), 20] = 0
    return Scores("METEOR", counts, _score)


def _statistics(captions: Captions, asked: IO[str], answers: IO[str]) -> list[list[float]]:
    ends = captions.references_each.cumsum().tolist()
    rows: list[list[float]] = []
    for prediction, start, end in zip(captions.predictions, [0, *ends], ends, strict=False):
        row = _ask(prediction, captions.references[start:end], asked, answers)
        if len(row) != _STATISTICS:
            raise MeteorMissing(f"METEOR ended at item {len(rows)} of {len(captions)}")
        rows.append(row)
    return rows


def _ask(prediction: str, references: Sequence[str], asked: IO[str], answers: IO[str]) -> list[float]:
    own = prediction.replace("|||", "").replace("  ", " ")
    try:
        asked.write(" ||| ".join(["SCORE", *references, own]) + "\n")
        asked.flush()
    except BrokenPipeError:
        return []
    return [float(number) for number in answers.readline().split()]


def _score(sums: Float64) -> Float64:
    """From sums [..., 23] of the statistics to the score, by the formulas of the paper."""
    lengths, functions, matches = sums[..., 0:2], sums[..., 2:4], sums[..., 4:20]
    # Of each matcher: content words here, content words there, function words here, function words there.
    content, function = np.moveaxis(matches.reshape(*sums.shape[:-1], 4, 2, 2), -2, 0)
    weighted = _MATCHERS @ (_DELTA * content + (1 - _DELTA) * function)
    words = _DELTA * (lengths - functions) + (1 - _DELTA) * functions
    precision, recall = np.moveaxis(_over(weighted, words), -1, 0)
    mean = _over(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    pieces = _over(sums[..., 20], (sums[..., 21] + sums[..., 22]) / 2)
    score: Float64 = mean * (1 - _GAMMA * pieces**_BETA)
    return score


def _over(numerator: Float64, denominator: Float64) -> Float64:
    """The quotient, 0 over 0 being 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator != 0)
