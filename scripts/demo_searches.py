"""Shows what the demo's corpus answers: three searches by text, one by image."""

import sys
from pathlib import Path

from pipelines.cli import main

TEXTS = (
    "two red circles on a white background",
    "a sign that reads 42",
    "a yellow bar chart with three bars",
)


def show(*words: str) -> None:
    """Runs one command as a user would type it."""
    print("\n$ darkroom " + " ".join(f'"{word}"' if " " in word else word for word in words))
    if code := main(words):
        raise SystemExit(code)


if __name__ == "__main__":
    photos, corpus = Path(sys.argv[1]), f"corpus={sys.argv[2]}"
    for text in TEXTS:
        show("search", corpus, f"text={text}", "k=5")
    picture = sorted(photos.glob("signs/*.jpg"))[0]
    show("search", corpus, f"image={picture}", "k=5")
    report = sorted(Path(sys.argv[2]).glob("runs/*/report.html"))[-1]
    print(f"\nThe report of the night: {report}")
