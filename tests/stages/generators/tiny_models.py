"""Checkpoints of real image-text-to-text classes with random weights, and photographs to show them."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from stages.base import Image
from tests.stages.generators.tiny_families import BUILDERS, GENERATION, MARKED, MARKS, OFFICIAL, SHOWN

SIDE = 32
PATCH = 8
PICTURE_TOKENS = (SIDE // PATCH) ** 2
KINDS = ("llava", "deepseek_vl", "idefics3", "blip")
FAMILIES = (*KINDS, *(kind for kind in BUILDERS if kind != "vilt"))
PLAIN = ("blip", "blip2", "florence2", "vilt")  # no chat template
SHARING = ("llava", "deepseek_vl", "idefics3")

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_VISION = {**_SIZES, "image_size": SIDE, "patch_size": PATCH}
_SQUARE = {"height": SIDE, "width": SIDE}
_FRAMES = {"blip": "<s> $A </s>", "florence2": "<s> $A </s>", "blip2": "<s> $A", "vilt": "<s> $A </s>"}
_SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<fake_token_around_image>", "<end_of_utterance>"]
_TILES = ["<global-img>", *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2))]
_CORPUS = [
    "describe the image. what is it? how many objects are there?",
    "user: assistant: a red cup of coffee on a table, a cat and the moon.",
]
_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def save_model(folder: Path, kind: str, ends: tuple[int, ...] = (2,), seed: int = 0) -> Path:
    """A whole checkpoint; `ends` are the tokens that end a text."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer(_FRAMES.get(kind), MARKED.get(kind, "<image>"))
    if kind in BUILDERS:
        tokenizer.add_tokens(MARKS.get(kind, []), special_tokens=True)
        model, processor = BUILDERS[kind](len(tokenizer), tokenizer)
        processor.chat_template = (
            None if kind in PLAIN else _TEMPLATE.replace("<image>", SHOWN.get(kind, "<image>"))
        )
    else:
        model, processor = _model(kind, len(tokenizer)), _processor(kind, tokenizer)
    _spread(model.eval())
    if model.can_generate():
        model.generation_config.update(bos_token_id=1, eos_token_id=list(ends), pad_token_id=0)
        model.generation_config.update(**GENERATION.get(kind, {}))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if kind in OFFICIAL:
        _rewrite(folder / "processor_config.json", processor_class=OFFICIAL[kind])
    return folder


def _rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")


@lru_cache(maxsize=1)
def photographs() -> list[Image]:
    """Five pictures of scikit-image, uint8 RGB of unlike sizes, the longest side 64."""
    found = []
    for name in ("astronaut", "chelsea", "coffee", "retina", "rocket"):
        whole = getattr(skimage.data, name)()
        scale = 64 / max(whole.shape)
        small = cv2.resize(whole, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found.append(np.ascontiguousarray(small, dtype=np.uint8))
    return found


def _tokenizer(frame: str | None, image_token: str | None) -> Any:
    """`frame`: the tokens that are put around every text, as BERT's and OPT's do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    if frame:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=frame, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": image_token} if image_token else {},
    )
    wrapped.add_tokens(_TILES, special_tokens=True)
    return wrapped


def _text(words: int) -> dict[str, Any]:
    return {
        **_SIZES,
        "num_key_value_heads": 2,
        "vocab_size": words,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _model(kind: str, words: int) -> Any:
    match kind:
        case "llava":
            return transformers.LlavaForConditionalGeneration(
                transformers.LlavaConfig(
                    text_config=transformers.LlamaConfig(**_text(words)),
                    vision_config=transformers.CLIPVisionConfig(**_VISION),
                    image_token_id=3,
                )
            )
        case "deepseek_vl":
            return transformers.DeepseekVLForConditionalGeneration(
                transformers.DeepseekVLConfig(
                    text_config=transformers.LlamaConfig(**_text(words)),
                    vision_config=transformers.SiglipVisionConfig(**_VISION),
                    image_token_id=3,
                )
            )
        case "idefics3":
            return transformers.Idefics3ForConditionalGeneration(
                transformers.Idefics3Config(
                    text_config=transformers.LlamaConfig(**_text(words)),
                    vision_config={**_VISION, "model_type": "idefics3_vision"},
                    image_token_id=3,
                    scale_factor=2,
                    pad_token_id=0,
                )
            )
        case "blip":
            text = {**_text(words), "encoder_hidden_size": 32, "sep_token_id": 2, "projection_dim": 32}
            text["bos_token_id"] = 5  # not what the tokenizer begins with: the model writes it over that
            text.pop("num_key_value_heads")
            config = transformers.BlipConfig(text_config=text, vision_config=_VISION, projection_dim=32)
            return transformers.BlipForConditionalGeneration(config)
    raise ValueError(kind)


def _processor(kind: str, tokenizer: Any) -> Any:
    match kind:
        case "llava":
            return transformers.LlavaProcessor(
                CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=_SQUARE),
                tokenizer,
                patch_size=PATCH,
                vision_feature_select_strategy="default",
                num_additional_image_tokens=1,
                chat_template=_TEMPLATE,
            )
        case "deepseek_vl":
            return transformers.DeepseekVLProcessor(
                DeepseekVLImageProcessorPil(size=_SQUARE),
                tokenizer,
                num_image_tokens=PICTURE_TOKENS,
                chat_template=_TEMPLATE,
            )
        case "idefics3":
            return transformers.Idefics3Processor(
                Idefics3ImageProcessorPil(
                    size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
                ),
                tokenizer,
                image_seq_len=PICTURE_TOKENS // 4,
                chat_template=_TEMPLATE,
            )
        case "blip":
            return transformers.BlipProcessor(BlipImageProcessorPil(size=_SQUARE), tokenizer)
    raise ValueError(kind)


def _spread(model: torch.nn.Module) -> None:
    """Weights as large as trained ones: with tiny ones every picture gets the same text."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2 and "position" not in name:
                weight.normal_(std=1.5 / weight[0].numel() ** 0.5)
            if "embed_tokens" in name or "word_embeddings" in name:
                weight.normal_(std=1.0)
