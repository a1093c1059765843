"""Pictures and text for Qwen2-VL and Qwen2.5-VL: a picture takes one token a square of merged patches."""

from typing import Any

from transformers import Qwen2_5_VLProcessor
from transformers.processing_utils import ProcessorMixin


class Qwen2Pictures(Qwen2_5_VLProcessor):  # type: ignore[misc]
    """Also for Qwen2-VL, whose processor differs in videos only."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: Any = None) -> None:
        self.image_token = getattr(tokenizer, "image_token", "<|image_pad|>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
