"""Requests as vLLM's engine takes them, and its outputs as results: plain data, so that neither needs vLLM.

Names and types are those of vLLM 0.12 and later, where `guided_*` became `StructuredOutputsParams`.
"""

import math
from collections.abc import Sequence
from typing import Any

from stages.generators.config import GeneratorConfig
from stages.generators.local.pictures import picture_key, to_pil
from stages.generators.local.sampling import row_seed
from stages.generators.protocol import (
    FailedRequest,
    FinishReason,
    GenerationError,
    Request,
    Result,
    Sampling,
)
from stages.generators.thinking import THOUGHT, is_primed, part_thinking
from stages.schemas import Status

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


def engine_prompt(request: Request, tokens: Sequence[int]) -> dict[str, Any]:
    """A `TokensPrompt`: tokens, because the engine would put a second first token before a rendered text.

    Pictures go by the digest of their pixels, so that the engine encodes each once for all its questions.
    """
    prompt: dict[str, Any] = {"prompt_token_ids": list(tokens)}
    if request.images:
        prompt["multi_modal_data"] = {"image": [to_pil(image) for image in request.images]}
        prompt["multi_modal_uuids"] = {"image": [picture_key(image).hex() for image in request.images]}
    return prompt


def sampling_params(request: Request, config: GeneratorConfig, prompt: str) -> dict[str, Any]:
    """Arguments of `SamplingParams`; `json` in place of `structured_outputs`.

    What a text draws depends on its own seed, pictures and prompt, and not on what else is in its batch.
    """
    sampling = request.sampling or Sampling(config.temperature, config.top_p, config.seed)
    params: dict[str, Any] = {
        "n": 1,
        "max_tokens": config.max_new_tokens,
        "temperature": sampling.temperature,
        "logprobs": 0,  # of the token that was chosen, and of no other
    }
    if sampling.temperature > 0:
        seed = row_seed(sampling.seed, [picture_key(image) for image in request.images], prompt)
        params |= {"top_p": sampling.top_p, "seed": seed}
    if request.schema is not None:
        params["json"] = request.schema
    return params


def result_of(id: int, sent: str, prompt: str, output: Any, latency_s: float) -> Result | FailedRequest:
    """The final `RequestOutput` of the request that went as `sent`, after the rendered `prompt`.

    Raises: GenerationError for one that is not final, or another's.
    """
    if output.request_id != sent or not output.finished or len(output.outputs) != 1:
        raise GenerationError(
            f"the engine answers {sent} with {output.request_id}, {len(output.outputs)} texts, "
            f"{'finished' if output.finished else 'unfinished'}"
        )
    (made,) = output.outputs
    if made.finish_reason not in _REASONS:
        return FailedRequest(id, Status.FAILED, f"the engine ended with finish_reason {made.finish_reason!r}")
    thinking, answer = part_thinking(made.text, is_primed(prompt))
    return Result(
        id,
        answer,
        _REASONS[made.finish_reason],
        len(output.prompt_token_ids),
        len(made.token_ids),
        thinking,
        _mean_logprob(made, thinking is not None),
        latency_s,
    )


def _mean_logprob(made: Any, thought: bool) -> float | None:
    """Of the tokens of the answer, those behind the thoughts; None where there are none."""
    if not made.logprobs:
        return None
    chosen = [found[token] for token, found in zip(made.token_ids, made.logprobs, strict=True)]
    ends = [at for at, one in enumerate(chosen, 1) if THOUGHT in (one.decoded_token or "")]
    if thought and not ends:
        return None
    numbers = [float(one.logprob) for one in chosen[ends[-1] if ends else 0 :]]
    return sum(numbers) / len(numbers) if numbers and all(map(math.isfinite, numbers)) else None
