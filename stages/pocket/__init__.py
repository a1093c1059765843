"""Two small models trained from scratch on drawn pictures: captioning and search that run anywhere.

`scenes`, `drawing`, `language` and `clips` make the pictures and what is true of them; `training` holds
the recipe; `encoder/` and `captioner/` hold the weights in the standard Hugging Face layout.
"""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS = ("encoder", "captioner")


def checkpoint(name: str) -> Path:
    """Folder of a packaged model.

    "encoder" is a SiglipModel, "captioner" a DeepseekVLForConditionalGeneration.
    Raises ValueError for any other name.
    """
    if name not in CHECKPOINTS:
        raise ValueError(f"unknown pocket model {name!r}; known: {', '.join(CHECKPOINTS)}")
    return Path(__file__).resolve().parent / name
