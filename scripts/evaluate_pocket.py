"""Scores the packaged pocket models by `darkroom evaluate` on held-out pictures, for the model card."""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from pipelines.cli import main as darkroom
from stages.pocket.corpus import write_pictures
from stages.pocket.truth import CAPTIONS, QUESTIONS, TEXTS, write_truth


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="held-out pictures")
    parser.add_argument("--seed", type=int, default=2, help="chooses the held-out scenes")
    parser.add_argument("--out", type=Path, help="keeps pictures, corpus and reports there")
    parser.add_argument("--cluster", choices=("local", "ray"), default="local", help="where models run")
    return parser.parse_args()


def evaluated(*words: str) -> dict[str, Any]:
    """Runs one evaluation in the corpus of `words` and returns what its scores.json holds."""
    if code := darkroom(("evaluate", *words)):
        raise SystemExit(code)
    corpus = Path(next(word for word in words if word.startswith("corpus=")).partition("=")[2])
    found: dict[str, Any] = json.loads(max(corpus.glob("runs/*/scores.json")).read_text("utf-8"))
    return found


def rows(found: dict[str, Any]) -> list[str]:
    """Lines of the card's table: each group of questions, or each score."""
    groups = found["breakdowns"].get("question type", {})
    scores = {one["name"]: one for one in found["scores"]} | dict(sorted(groups.items()))
    return [
        f"| {name} | {one['value']:.3f} | {one['low']:.3f} to {one['high']:.3f} | {one['n']:,} |"
        for name, one in scores.items()
    ]


def main() -> None:
    """Draw, evaluate, print the table."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="darkroom-") as name:
        folder = options.out or Path(name)
        photos, truth = folder / "photos", folder / "truth"
        write_truth(truth, write_pictures(photos, options.count, options.seed), photos, options.seed)
        common = (
            f"corpus={folder / 'corpus'}",
            f"source.path={photos}",
            f"cluster={options.cluster}",
            "tracking=off",
        )
        found = evaluated(
            "task=retrieval", "encoder=pocket", "index=exact", f"references={truth / TEXTS}", *common
        )
        captioner = ("captioner=pocket", *common)
        captioned = evaluated("task=captions", f"references={truth / CAPTIONS}", *captioner)
        asked = evaluated("task=vqa", f"annotations={truth / QUESTIONS}", *captioner)
    print("\n| held-out | score | 95% | cases |\n| --- | --- | --- | --- |")
    print("\n".join([*rows(found), *rows(captioned), *rows(asked)]))


if __name__ == "__main__":
    main()
