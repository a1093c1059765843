"""Processors of pictures and text for models whose official ones cannot be used as they are.

The official ones of several families also prepare videos, and for that need torchvision (SmolVLM's num2words
too), also where no video ever comes. Ours are their subclasses that take pictures only: the expansion of an
image into tokens stays the library's own.
"""

from typing import Any


def processor_class(model_type: str) -> Any:
    """What loads the processor of a model type: one of ours, or AutoProcessor."""
    match model_type:
        case "qwen2_vl" | "qwen2_5_vl":
            from stages.generators.local.processors.qwen2_vl import Qwen2Pictures

            return Qwen2Pictures
        case "qwen3_vl" | "qwen3_vl_moe" | "qwen3_5" | "qwen3_5_moe":
            from stages.generators.local.processors.qwen3_vl import Qwen3Pictures

            return Qwen3Pictures
        case "smolvlm":
            from stages.generators.local.processors.smolvlm import SmolVLMPictures

            return SmolVLMPictures
        case "llava_onevision":
            from stages.generators.local.processors.llava_onevision import LlavaOnevisionPictures

            return LlavaOnevisionPictures
        case "internvl":
            from stages.generators.local.processors.internvl import InternVLPictures

            return InternVLPictures
        case "florence2":
            from stages.generators.local.processors.florence2 import Florence2Pictures

            return Florence2Pictures
    from transformers import AutoProcessor

    return AutoProcessor
