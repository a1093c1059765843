"""Pictures and text for InternVL: tiles of one size and, where there are several, the whole as one more."""

import re
from typing import Any

from transformers import InternVLProcessor
from transformers.processing_utils import ProcessorMixin


class InternVLPictures(InternVLProcessor):  # type: ignore[misc]
    def __init__(
        self, image_processor: Any, tokenizer: Any, image_seq_length: int = 256, chat_template: Any = None
    ) -> None:
        self.image_seq_length = image_seq_length  # tokens of a tile
        self.start_image_token, self.end_image_token = tokenizer.start_image_token, tokenizer.end_image_token
        self.start_image_token_id = tokenizer.start_image_token_id
        self.end_image_token_id = tokenizer.end_image_token_id
        self.image_token, self.image_token_id = (
            tokenizer.context_image_token,
            tokenizer.context_image_token_id,
        )
        self.multimodal_pattern = re.compile(f"(?P<image>{re.escape(self.image_token)})")
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
