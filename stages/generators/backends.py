"""Which code answers for a backend: the one place that knows all of them."""

import functools
from dataclasses import asdict, replace
from typing import Any

from stages.checkpoints import resolve, weights_digest
from stages.generators.config import Backend, GeneratorConfig, GeneratorRun, Sees, ServerConfig
from stages.generators.fusion import feature_prefix
from stages.generators.local import caption_then_llm, image_text_to_text
from stages.generators.local.vilt import Vilt
from stages.generators.protocol import Generator
from stages.generators.server.served import ServedModel, server_view
from stages.generators.vllm.engine import load_engine_model
from stages.resize import ResizeConfig


@functools.cache
def load_generator(config: GeneratorConfig, run: GeneratorRun) -> Generator:
    """One model per process: captions and answers by the same one share it. Raises: ModelLoadError."""
    match config.backend:
        case Backend.TRANSFORMERS:
            return image_text_to_text.ImageTextToText(config, run)
        case Backend.VILT:
            return Vilt(config, run)
        case Backend.CAPTION_THEN_LLM:
            captioner = load_generator(caption_then_llm.captioner_config(config), run)
            return caption_then_llm.CaptionThenLlm(config, run, captioner)
        case Backend.FEATURE_PREFIX:
            return feature_prefix.FeaturePrefix(config, run)
        case Backend.OPENAI:
            return ServedModel(config, run)
        case Backend.VLLM:
            return load_engine_model(config, run)


def generator_view(config: GeneratorConfig) -> ResizeConfig:
    """The view whose pictures the model is given, without loading the model. Raises: ModelLoadError."""
    match config.backend:
        case Backend.TRANSFORMERS | Backend.VILT | Backend.VLLM:
            return image_text_to_text.picture_view(config)
        case Backend.CAPTION_THEN_LLM:
            return generator_view(caption_then_llm.captioner_config(config))
        case Backend.FEATURE_PREFIX:
            return feature_prefix.picture_view(config)
        case Backend.OPENAI:
            return server_view(config)


def generator_needs(config: GeneratorConfig) -> tuple[str, ...]:
    """Columns of the stream, beside the pictures, that the model is asked with: `caption`, `embedding`."""
    sees = config.server.sees if config.server else Sees.IMAGE
    return {Sees.IMAGE: (), Sees.CAPTION: ("caption",), Sees.EMBEDDING: ("embedding",)}[sees]


def generator_identity(config: GeneratorConfig) -> dict[str, Any]:
    """What identifies the texts: settings, and weights by their digest, not by where they lie.

    Of a served model its name, wherever the server is: nobody sees its weights. Raises: ModelLoadError.
    """
    match config.backend:
        case Backend.OPENAI:
            return asdict(replace(config, server=config.server or ServerConfig()))
        case Backend.CAPTION_THEN_LLM:
            return caption_then_llm.identity(config)
        case Backend.FEATURE_PREFIX:
            return feature_prefix.identity(config)
    settings = {key: value for key, value in asdict(config).items() if key not in ("model", "revision")}
    return {**settings, "weights": weights_digest(resolve(config.model, config.revision))}
