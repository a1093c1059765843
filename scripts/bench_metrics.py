"""Scoring 40,000 captions with 5 references each, and 200,000 answers, and ranking; one JSON object a row.

    python -m scripts.bench_metrics --captions 40000 --answers 200000 --compared 4000

Seconds are of the CPU, memory is the peak of the process so far. Where the package pycocoevalcap is
installed, its Python code scores a part of the same captions, and `times_as_fast` says how it compares,
caption for caption. Its tokenizer is a Java program and is not measured; METEOR is no part of either.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from stages.index.vectors import Float32
from stages.metrics import retrieval
from stages.metrics.bootstrap import intervals
from stages.metrics.captions import caption_scores, tokenized
from stages.metrics.ngrams import Captions
from stages.metrics.vqa import anls, textvqa_accuracy, vqa_accuracy

REFERENCES = 5
_WORDS = 12_000
_DIM = 512
# Of COCO's captions: tokens of a caption, its standard deviation.
_LENGTH = (10.5, 2.4)
_SIGNS = ("", "", "", "", "", ",", "'s", "-ish", " 12", ".")


def sentences(rng: np.random.Generator, count: int) -> list[str]:
    """Captions of words that are as rare as in real ones, one in two with a number, a hyphen or a mark."""
    rank = np.arange(1, _WORDS + 1)
    share = 1 / (rank + 2.7)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(_WORDS)]
    lengths = np.clip(rng.normal(*_LENGTH, count), 5, 40).astype(int)
    drawn = iter(rng.choice(_WORDS, int(lengths.sum()), p=share / share.sum()).tolist())
    signs = iter(rng.integers(0, len(_SIGNS), count).tolist())
    made = [" ".join(words[next(drawn)] for _ in range(length)) for length in lengths.tolist()]
    return [f"A {text}{_SIGNS[next(signs)]} scene." for text in made]


def measured(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def bench_captions(count: int, compared: int) -> None:
    rng = np.random.default_rng(0)
    texts = sentences(rng, count * (REFERENCES + 1))
    predictions = texts[:count]
    references = [texts[count + i * REFERENCES :][:REFERENCES] for i in range(count)]
    tokenizing, captions = measured(lambda: tokenized(predictions, references))
    scoring, scores = measured(lambda: caption_scores(captions))
    resampling, _ = measured(lambda: intervals(scores))
    row = {"captions": count, "tokenize_s": tokenizing, "score_s": scoring, "intervals_s": resampling}
    row["peak_mb"] = peak_mb()
    official = official_seconds(captions, min(count, compared))
    if official is not None:
        row["official_score_s"] = official * count / min(count, compared)
        row["times_as_fast"] = row["official_score_s"] / scoring
    report(row)


def official_seconds(captions: Captions, count: int) -> float | None:
    """Of BLEU, ROUGE-L and CIDEr of the first captions by pycocoevalcap; None where it is not installed."""
    try:
        from pycocoevalcap.bleu.bleu import Bleu  # type: ignore[import-not-found]
        from pycocoevalcap.cider.cider import Cider  # type: ignore[import-not-found]
        from pycocoevalcap.rouge.rouge import Rouge  # type: ignore[import-not-found]
    except ImportError:
        return None
    results = {i: [captions.predictions[i]] for i in range(count)}
    truth: dict[int, list[str]] = {i: [] for i in range(count)}
    for item, text in zip(captions.item.tolist(), captions.references, strict=True):
        if item < count:
            truth[item].append(text)

    def score() -> None:
        Bleu(4).compute_score(truth, results, verbose=0)
        Rouge().compute_score(truth, results)
        Cider().compute_score(truth, results)

    return measured(score)[0]


def bench_answers(count: int) -> None:
    rng = np.random.default_rng(1)
    known = [
        f"{text} {number}" for number, text in enumerate(["yes", "no", "a red dog", "2,000", "don't"] * 1000)
    ]
    drawn = rng.integers(0, len(known), (count, 3)).tolist()
    predictions = [known[row[0]] for row in drawn]
    answers = [[known[row[0]]] * 4 + [known[row[1]]] * 4 + [known[row[2]]] * 2 for row in drawn]
    for metric in (vqa_accuracy, textvqa_accuracy, anls):
        seconds, scores = measured(lambda metric=metric: metric(predictions, answers))  # type: ignore[misc]
        report({"metric": scores.name, "answers": count, "score_s": seconds, "peak_mb": peak_mb()})


def bench_ranks(images: int) -> None:
    rng = np.random.default_rng(2)
    own = np.repeat(np.arange(images), REFERENCES)
    pictures = unit(rng.standard_normal((images, _DIM), np.float32))
    texts = unit(pictures[own] + unit(rng.standard_normal((len(own), _DIM), np.float32)))
    before = peak_mb()
    seconds, _ = measured(lambda: retrieval.rank(texts, own, pictures[own], [(np.arange(images), pictures)]))
    report({"images": images, "texts": len(own), "rank_s": seconds, "more_mb": peak_mb() - before})


def unit(vectors: Float32) -> Float32:
    lengths: Float32 = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths


def report(row: dict[str, Any]) -> None:
    rounded = {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}
    print(json.dumps(rounded), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=40_000)
    parser.add_argument("--answers", type=int, default=200_000)
    parser.add_argument("--compared", type=int, default=4000, help="captions for the official code")
    parser.add_argument("--images", type=int, default=10_000, help="ranked against 5 texts each")
    sizes = parser.parse_args()
    bench_captions(sizes.captions, sizes.compared)
    bench_answers(sizes.answers)
    bench_ranks(sizes.images)


if __name__ == "__main__":
    main()
