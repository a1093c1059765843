"""Requests as bodies of OpenAI's chat completions."""

import base64
import json
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.base import Image
from stages.generators.config import GeneratorConfig, Sees, ServerConfig
from stages.generators.fencing import File, described, file_prompt
from stages.generators.protocol import Request, Sampling


def lacks(request: Request, sees: Sees) -> str | None:
    """What the request would have to hold for a model that is given this of a picture; None if it does."""
    match sees:
        case Sees.CAPTION if not request.known.get("caption"):
            return "a model of text only needs a caption of the picture, and there is none"
        case Sees.EMBEDDING if request.embedding is None:
            return "server.sees=embedding needs an embedding of the picture, and there is none"
    return None


def body_of(request: Request, config: GeneratorConfig) -> dict[str, Any]:
    """The body of one request. Equal requests have equal bodies, so that servers can reuse prefixes."""
    sampling = request.sampling or Sampling(config.temperature, config.top_p, config.seed)
    body: dict[str, Any] = {
        "model": config.model,
        "messages": messages_of(request, config.server or ServerConfig()),
        "max_tokens": config.max_new_tokens,
        "temperature": sampling.temperature,
        "logprobs": True,
    }
    if sampling.temperature > 0:
        body |= {"top_p": sampling.top_p, "seed": sampling.seed}
    if request.schema is not None:
        schema = {"name": "answer", "schema": json.loads(request.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def messages_of(request: Request, config: ServerConfig) -> list[dict[str, Any]]:
    """The turns so far and the prompt; what is known of the pictures comes with the first of them."""
    first, *later = [*(turn.prompt for turn in request.turns), request.prompt]
    messages = [{"role": "user", "content": _first(request, first, config)}]
    for turn, prompt in zip(request.turns, later, strict=True):
        messages += [{"role": "assistant", "content": turn.text}, {"role": "user", "content": prompt}]
    return messages


def _first(request: Request, prompt: str, config: ServerConfig) -> Any:
    match config.sees:
        case Sees.IMAGE:
            parts = [_image_part(image, config.jpeg_quality) for image in request.images]
            return parts + ([{"type": "text", "text": prompt}] if prompt else [])
        case Sees.CAPTION:
            return file_prompt([File("image", described(request.known))], prompt)
        case Sees.EMBEDDING:
            assert request.embedding is not None
            return f"{vector_text(request.embedding)}\n{prompt}"


def _image_part(image: Image, quality: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(image, quality)}}


def data_url(image: Image, quality: int) -> str:
    """A picture, uint8 RGB [H, W, 3], as a JPEG in a data URL."""
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def vector_text(vector: npt.NDArray[np.float16]) -> str:
    """An embedding as JSON, six decimals a number: `clip_vector_v1`, as recipes with CLIP and R1 have it."""
    numbers = ", ".join(f"{number:.6f}" for number in vector.astype(np.float64))
    return f'{{"type": "image_embedding", "format": "clip_vector_v1", "data": [{numbers}]}}'
