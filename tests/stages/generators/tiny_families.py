"""Tiny models and processors of the classes that need more than the four of `tiny_models` do."""

from collections.abc import Callable
from typing import Any

import transformers
from transformers.models.bart import BartConfig
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (
    DeepseekVLHybridImageProcessorPil,
)
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from stages.generators.local.processors.florence2 import Florence2Pictures
from stages.generators.local.processors.internvl import InternVLPictures
from stages.generators.local.processors.llava_onevision import LlavaOnevisionPictures
from stages.generators.local.processors.qwen2_vl import Qwen2Pictures
from stages.generators.local.processors.qwen3_vl import Qwen3Pictures
from stages.generators.local.processors.smolvlm import SmolVLMPictures

SIDE, PATCH = 32, 8
TOKENS = (SIDE // PATCH) ** 2  # of one square picture
MARKS = {  # special tokens besides those of `tiny_models`, by kind
    "qwen2_5_vl": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>"],
    "qwen3_vl": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>"],
    "internvl": ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
}
# Tokenizers of these have no name for their mark of a picture, as in the real checkpoints.
MARKED = {"blip2": None, "qwen2_5_vl": None, "qwen3_vl": None, "internvl": None}
# What a chat template writes for a picture, where that is not `<image>`.
SHOWN = {
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "internvl": "<IMG_CONTEXT>",
}
# The official classes that ours stand for: what real checkpoints name.
OFFICIAL = {
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
    "smolvlm": "SmolVLMProcessor",
    "llava_onevision": "LlavaOnevisionProcessor",
    "internvl": "InternVLProcessor",
    "florence2": "Florence2Processor",
}
# As Florence-2's checkpoints have it.
GENERATION = {
    "florence2": {
        "num_beams": 3,
        "early_stopping": True,
        "no_repeat_ngram_size": 3,
        "forced_bos_token_id": 1,
        "forced_eos_token_id": 2,
    }
}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_VISION = {**_SIZES, "image_size": SIDE, "patch_size": PATCH}
_SQUARE = {"height": SIDE, "width": SIDE}
_PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _text(words: int) -> dict[str, Any]:
    return {**_SIZES, **_ENDS, "num_key_value_heads": 2, "vocab_size": words, "max_position_embeddings": 512}


def _blip2(words: int, tokenizer: Any) -> tuple[Any, Any]:
    text = {"vocab_size": words, "word_embed_proj_dim": 32, "ffn_dim": 48, "max_position_embeddings": 512}
    config = transformers.Blip2Config(
        vision_config=_VISION,
        qformer_config={**_SIZES, "vocab_size": words, "encoder_hidden_size": 32},
        text_config=transformers.OPTConfig(**_SIZES, **_ENDS, **text),
        num_query_tokens=4,
        image_token_index=3,
    )
    processor = transformers.Blip2Processor(
        BlipImageProcessorPil(size=_SQUARE), tokenizer, num_query_tokens=4
    )
    return transformers.Blip2ForConditionalGeneration(config), processor


def _deepseek_vl_hybrid(words: int, tokenizer: Any) -> tuple[Any, Any]:
    sam = {**_VISION, "image_size": 2 * SIDE, "mlp_dim": 48, "output_channels": 16, "window_size": 4}
    config = transformers.DeepseekVLHybridConfig(
        text_config=transformers.LlamaConfig(**_text(words)),
        vision_config=transformers.SiglipVisionConfig(**_VISION),
        high_res_vision_config=transformers.SamVisionConfig(**sam, global_attn_indexes=[1]),
        image_token_id=3,
    )
    pixels = DeepseekVLHybridImageProcessorPil(
        size=_SQUARE, high_res_size={"height": 2 * SIDE, "width": 2 * SIDE}
    )
    processor = transformers.DeepseekVLHybridProcessor(pixels, tokenizer, num_image_tokens=TOKENS)
    return transformers.DeepseekVLHybridForConditionalGeneration(config), processor


def _qwen2_5_vl(words: int, tokenizer: Any) -> tuple[Any, Any]:
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "out_hidden_size": 32}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**_text(words), "rope_parameters": _mrope([1, 1, 2])},
        vision_config={**vision, "patch_size": PATCH, "window_size": 32, "fullatt_block_indexes": [1]},
        **_qwen_marks(tokenizer),
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config), Qwen2Pictures(_qwen_pixels(), tokenizer)


def _qwen3_vl(words: int, tokenizer: Any) -> tuple[Any, Any]:
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "out_hidden_size": 32}
    config = transformers.Qwen3VLConfig(
        text_config={**_text(words), "head_dim": 8, "rope_parameters": _mrope([2, 1, 1])},
        vision_config={
            **vision,
            "patch_size": PATCH,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        **_qwen_marks(tokenizer),
    )
    return transformers.Qwen3VLForConditionalGeneration(config), Qwen3Pictures(_qwen_pixels(), tokenizer)


def _mrope(section: list[int]) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section}


def _qwen_marks(tokenizer: Any) -> dict[str, int]:
    start, end, pad = (tokenizer.convert_tokens_to_ids(mark) for mark in MARKS["qwen2_5_vl"])
    return {"vision_start_token_id": start, "vision_end_token_id": end, "image_token_id": pad}


def _qwen_pixels() -> Any:
    limits = {"shortest_edge": (2 * PATCH) ** 2, "longest_edge": (6 * PATCH) ** 2}  # in pixels, not sides
    return Qwen2VLImageProcessorPil(size=limits, patch_size=PATCH)


def _smolvlm(words: int, tokenizer: Any) -> tuple[Any, Any]:
    config = transformers.SmolVLMConfig(
        text_config=transformers.LlamaConfig(**_text(words)),
        vision_config=_VISION,
        image_token_id=3,
        scale_factor=2,
        pad_token_id=0,
    )
    pixels = SmolVLMImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    return (
        transformers.SmolVLMForConditionalGeneration(config),
        SmolVLMPictures(pixels, tokenizer, image_seq_len=TOKENS // 4),
    )


def _llava_onevision(words: int, tokenizer: Any) -> tuple[Any, Any]:
    config = transformers.LlavaOnevisionConfig(
        text_config=transformers.Qwen2Config(**_text(words)),
        vision_config=transformers.SiglipVisionConfig(**_VISION, vision_use_head=False),
        image_token_index=3,
        video_token_index=words - 1,
        image_grid_pinpoints=_PINPOINTS,
    )
    pixels = LlavaOnevisionImageProcessorPil(size=_SQUARE, image_grid_pinpoints=_PINPOINTS)
    return (
        transformers.LlavaOnevisionForConditionalGeneration(config),
        LlavaOnevisionPictures(
            pixels, tokenizer, num_image_tokens=TOKENS, vision_feature_select_strategy="full"
        ),
    )


def _internvl(words: int, tokenizer: Any) -> tuple[Any, Any]:
    start, end, context, video = MARKS["internvl"]
    names = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    for name, mark in zip(names, (start, end, context, video), strict=True):
        tokenizer._set_model_specific_special_tokens({name: mark})
    config = transformers.InternVLConfig(
        text_config=transformers.Qwen2Config(**_text(words)),
        vision_config={**_VISION, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
        image_token_id=tokenizer.convert_tokens_to_ids(context),
        tie_word_embeddings=False,
        image_seq_length=TOKENS // 4,
    )
    pixels = GotOcr2ImageProcessorPil(size=_SQUARE, crop_to_patches=True, min_patches=1, max_patches=4)
    return (
        transformers.InternVLForConditionalGeneration(config),
        InternVLPictures(pixels, tokenizer, image_seq_length=TOKENS // 4),
    )


def _florence2(words: int, tokenizer: Any) -> tuple[Any, Any]:
    vision = Florence2VisionConfig(
        depths=(1, 1),
        patch_size=(7, 3),
        patch_stride=(4, 2),
        patch_padding=(3, 1),
        patch_prenorm=(False, True),
        embed_dim=(16, 32),
        num_heads=(2, 4),
        num_groups=(2, 4),
        window_size=4,
        projection_dim=32,
    )
    text = BartConfig(
        vocab_size=words,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=512,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
        **_ENDS,
    )
    config = transformers.Florence2Config(text_config=text, vision_config=vision, image_token_id=3)
    pixels = CLIPImageProcessorPil(size=_SQUARE, crop_size=_SQUARE, do_center_crop=False)
    pixels.image_seq_length = TOKENS + 1  # those of the picture, and their mean
    return transformers.Florence2ForConditionalGeneration(config), Florence2Pictures(pixels, tokenizer)


def _vilt(words: int, tokenizer: Any) -> tuple[Any, Any]:
    answers = ["yes", "no", "red", "two", "a cat", "the moon", "coffee", "left"]
    config = transformers.ViltConfig(
        **_VISION,
        vocab_size=words,
        pad_token_id=0,
        max_position_embeddings=32,
        num_labels=len(answers),
        id2label=dict(enumerate(answers)),
    )
    pixels = ViltImageProcessorPil(size={"shortest_edge": SIDE}, size_divisor=PATCH)
    return transformers.ViltForQuestionAnswering(config), transformers.ViltProcessor(pixels, tokenizer)


BUILDERS: dict[str, Callable[[int, Any], tuple[Any, Any]]] = {
    "blip2": _blip2,
    "deepseek_vl_hybrid": _deepseek_vl_hybrid,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "smolvlm": _smolvlm,
    "llava_onevision": _llava_onevision,
    "internvl": _internvl,
    "florence2": _florence2,
    "vilt": _vilt,
}
