"""Pictures and text for SmolVLM: tiles of a picture with a mark before each, then the whole picture."""

from typing import Any

from transformers import SmolVLMProcessor
from transformers.processing_utils import ProcessorMixin


class SmolVLMPictures(SmolVLMProcessor):  # type: ignore[misc]
    def __init__(
        self, image_processor: Any, tokenizer: Any, image_seq_len: int = 169, chat_template: Any = None
    ) -> None:
        self.fake_image_token = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        self.global_image_token = getattr(tokenizer, "global_image_token", "<global-img>")
        self.image_token = getattr(tokenizer, "image_token", "<image>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.image_seq_len = image_seq_len
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        """Without the settings of videos that the official one adds."""
        return ProcessorMixin.apply_chat_template(self, *args, **kwargs)
