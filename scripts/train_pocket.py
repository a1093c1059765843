"""Trains the pocket models again from their seeds: one CPU core, about one and a half hours."""

from __future__ import annotations

import argparse
from pathlib import Path

from stages.pocket.training import recipe

PHASES = (
    "pictures",
    "vision",
    "encoder",
    "captioner",
    "reasoner",
    "package",
    "fusion",
    "package_fusion",
)


def main() -> None:
    """Run all phases, or the named ones on what earlier ones left in the work folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="work folder; takes 2.5 GB")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES, help="which phases to run")
    parser.add_argument("--processes", type=int, default=2, help="processes that draw pictures")
    options = parser.parse_args()
    recipe.run(recipe.Work(options.work), list(options.phases), options.processes)


if __name__ == "__main__":
    main()
