"""Scores the packaged pocket models on held-out pictures and prints the tables of the model card."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from stages.pocket import checkpoint
from stages.pocket.training import answering, evaluation


def main() -> None:
    """Score the models and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--encoder", type=Path, default=checkpoint("encoder"), help="folder of the dual encoder"
    )
    parser.add_argument(
        "--captioner", type=Path, default=checkpoint("captioner"), help="folder of the captioner"
    )
    parser.add_argument("--count", type=int, default=1000, help="held-out pictures; clips are a tenth of it")
    parser.add_argument("--seed", type=int, default=2, help="chooses the held-out scenes")
    parser.add_argument("--area", action="store_true", help="shrink pictures by area before the processors")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--answering", action="store_true", help="the reasoner and the fusion instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.answering:
        print(answering.table(answering.score_all(options.seed, options.count)))
        return
    scores = evaluation.score_all(
        options.encoder, options.captioner, options.seed, options.count, area=options.area
    )
    print(evaluation.table(scores))


if __name__ == "__main__":
    main()
