"""Pictures and text for Qwen3-VL and Qwen3.5: as Qwen2-VL, but for the sizes of patches."""

from typing import Any

from transformers import Qwen3VLProcessor
from transformers.processing_utils import ProcessorMixin


class Qwen3Pictures(Qwen3VLProcessor):  # type: ignore[misc]
    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: Any = None) -> None:
        self.image_token = getattr(tokenizer, "image_token", "<|image_pad|>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
