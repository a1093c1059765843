"""Draws a folder of pictures that the pocket models were never trained on, and a few broken files."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from stages.pocket import language
from stages.pocket.corpus import Written, write_broken, write_pictures


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to draw into; made if it does not exist")
    parser.add_argument("--count", type=int, default=2000, help="number of pictures")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds draw equal bytes")
    parser.add_argument("--broken", type=int, default=4, help="number of files that must be rejected")
    parser.add_argument("--truth", type=Path, help="write what each picture shows to this JSON Lines file")
    return parser.parse_args()


def truth_line(written: Written, root: Path, rng: np.random.Generator) -> str:
    """Captions, detailed caption and questions of one picture as a line of JSON."""
    asked = language.questions(written.scene, rng)
    return json.dumps(
        {
            "path": written.path.relative_to(root).as_posix(),
            "captions": language.captions(written.scene),
            "detail": language.detail(written.scene),
            "questions": [{"question": q.text, "answer": q.answer, "type": q.type} for q in asked],
        },
        ensure_ascii=False,
    )


def main() -> None:
    """Draw the folder and say what was written."""
    options, began = arguments(), time.perf_counter()
    written = write_pictures(options.out, options.count, options.seed)
    broken = write_broken(options.out, options.broken, options.seed)
    if options.truth:
        rng = np.random.default_rng((options.seed, 14))
        lines = [truth_line(one, options.out, rng) for one in written]
        options.truth.write_text("\n".join(lines) + "\n", encoding="utf-8")
    seconds = time.perf_counter() - began
    print(f"{len(written)} pictures and {len(broken)} broken files in {options.out}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
