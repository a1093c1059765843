"""Pictures and text for Florence-2, whose prompts name tasks: <CAPTION>, <DETAILED_CAPTION>, <OCR>..."""

from typing import Any

from transformers import Florence2Processor


class Florence2Pictures(Florence2Processor):  # type: ignore[misc]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Beginning and end of a text are always written by the processor, so never by the tokenizer too."""
        return super().__call__(*args, **{**kwargs, "add_special_tokens": False})
