"""Small models trained from scratch on drawn pictures: captions, answers and search that run anywhere.

`scenes`, `drawing`, `language` and `clips` make the pictures and what is true of them; `training` holds
the recipe; `encoder/`, `captioner/` and `reasoner/` hold the weights in the standard Hugging Face layout,
`fusion/` the projector that joins the first to the last.
"""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS = ("encoder", "captioner", "reasoner", "fusion")


def checkpoint(name: str) -> Path:
    """Folder of a packaged model.

    "encoder" is a SiglipModel, "captioner" a DeepseekVLForConditionalGeneration, "reasoner" a
    LlamaForCausalLM, "fusion" what `feature_prefix` reads.
    Raises ValueError for any other name.
    """
    if name not in CHECKPOINTS:
        raise ValueError(f"unknown pocket model {name!r}; known: {', '.join(CHECKPOINTS)}")
    return Path(__file__).resolve().parent / name
