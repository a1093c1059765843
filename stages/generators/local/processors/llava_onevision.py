"""Pictures and text for LLaVA-OneVision: a picture alone is the whole and its tiles, else the whole only.

With `vision_feature_select_strategy` "default" the vision tower's first token is left out.
"""

from typing import Any

from transformers import LlavaOnevisionProcessor
from transformers.processing_utils import ProcessorMixin


class LlavaOnevisionPictures(LlavaOnevisionProcessor):  # type: ignore[misc]
    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        num_image_tokens: int | None = None,
        vision_feature_select_strategy: str | None = None,
        vision_aspect_ratio: str = "anyres_max_9",
        chat_template: Any = None,
    ) -> None:
        self.num_image_tokens = num_image_tokens
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.vision_aspect_ratio = vision_aspect_ratio
        self.image_token = getattr(tokenizer, "image_token", "<image>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
