"""Answers by classification: ViLT chooses one of the answers that it was trained on.

ViLT: "Vision-and-Language Transformer Without Convolution or Region Supervision" (Kim et al., 2021).
"""

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.base import Image
from stages.batching import Batches, Failure, OnOom
from stages.checkpoints import Device, ModelLoadError, load, loading, quiet, read_json, resolve
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.quantization import quantization_options
from stages.generators.protocol import FailedRequest, FinishReason, GenerationError, Request, Result
from stages.schemas import Status

_GREY = np.full((64, 64, 3), 127, np.uint8)


class Vilt:
    """A `Generator` of labels. A label has no tokens, so `completion_tokens` is None; `mean_logprob` is the
    log of its own probability, by the sigmoid that the model was trained with. It has nothing to draw:
    a request's `sampling` changes nothing. Raises: ModelLoadError on construction.
    """

    def __init__(self, config: GeneratorConfig, run: GeneratorRun) -> None:
        import torch
        import transformers

        if run.threads is not None:
            torch.set_num_threads(run.threads)
        if config.temperature:
            raise ModelLoadError(f"{config.model} chooses among labels: generator.temperature must be 0")
        self._config, self._run = config, run
        folder = resolve(config.model, config.revision)
        self._labels = _labels(folder)
        with loading(folder):
            self._processor = transformers.ViltProcessor.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
        fewer_bits = quantization_options(config.quantization, config.dtype, run)
        self._model = load(
            transformers.ViltForQuestionAnswering, folder, config.dtype, run.device, **fewer_bits
        )
        # Above 0 a random part of a larger picture's patches is left out, other ones in every call.
        self._model.vilt.embeddings.config.max_image_length = -1
        self._batches = Batches[Request, Result](
            run.batch_size,
            self._answer,
            lambda request: replace(request, images=(_GREY,)),
            self._answer_on_cpu if run.on_oom is OnOom.CPU else None,
            fatal=(GenerationError, ModelLoadError),
        )

    @property
    def notes(self) -> Sequence[str]:
        return self._batches.notes

    def generate(self, requests: Sequence[Request], /) -> list[Result | FailedRequest]:
        """Questions longer than the model's positions have status `failed`. Raises: GenerationError."""
        self._require_possible(requests)
        lengths = {request.id: self._length(request.prompt) for request in requests}
        limit = self._model.config.max_position_embeddings
        long = [request for request in requests if lengths[request.id] > limit]
        rows = [request for request in requests if lengths[request.id] <= limit]
        rows.sort(key=lambda request: (request.images[0].shape, lengths[request.id]))
        failed = [
            FailedRequest(one.id, Status.FAILED, f"a question of {lengths[one.id]} tokens, above {limit}")
            for one in long
        ]
        outcomes = self._batches.run(rows)
        return [
            *failed,
            *(
                FailedRequest(request.id, outcome.status, outcome.error)
                if isinstance(outcome, Failure)
                else outcome
                for request, outcome in zip(rows, outcomes, strict=True)
            ),
        ]

    def _require_possible(self, requests: Sequence[Request]) -> None:
        faults = {
            "takes one picture a question": any(len(request.images) != 1 for request in requests),
            "takes no earlier turns": any(request.turns for request in requests),
            "follows no schema": any(request.schema is not None for request in requests),
            # Processors scale floats from 0 to 1 once more, in silence.
            "takes uint8 pictures of RGB only": any(
                image.dtype != "uint8" or image.ndim != 3 or image.shape[2] != 3
                for request in requests
                for image in request.images
            ),
        }
        for fault, found in faults.items():
            if found:
                raise GenerationError(f"{self._config.model} chooses among labels: it {fault}")

    def _length(self, prompt: str) -> int:
        with quiet():  # it warns of long ones
            return len(self._processor.tokenizer(prompt)["input_ids"])

    def _answer(self, requests: Sequence[Request], limit: int) -> list[Result]:
        import torch

        start = time.perf_counter()
        found: list[tuple[float, int, int]] = []
        for first in range(0, len(requests), limit):
            with torch.inference_mode(), quiet():
                inputs = self._inputs(requests[first : first + limit])
                logprobs = torch.nn.functional.logsigmoid(self._model(**inputs).logits.float())
                best, labels = logprobs.max(dim=1)
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            found += zip(best.tolist(), labels.tolist(), lengths, strict=True)
        seconds = time.perf_counter() - start
        return [
            Result(
                request.id,
                self._labels[label],
                FinishReason.STOP,
                length,
                None,
                mean_logprob=logprob,
                latency_s=seconds,
            )
            for request, (logprob, label, length) in zip(requests, found, strict=True)
        ]

    def _inputs(self, requests: Sequence[Request]) -> Mapping[str, Any]:
        inputs = self._processor(
            images=[_to_pil(request.images[0]) for request in requests],
            text=[request.prompt for request in requests],
            padding=True,
            return_tensors="pt",
        )
        return dict(inputs.to(self._model.device, self._model.dtype))

    def _answer_on_cpu(self, requests: Sequence[Request], limit: int) -> list[Result]:
        return self._on_cpu._answer(requests, limit)

    @functools.cached_property
    def _on_cpu(self) -> "Vilt":
        """The same weights on the CPU, loaded by the first picture that comes, and kept."""
        if self._model.device.type == "cpu":
            return self
        return Vilt(self._config, replace(self._run, device=Device.CPU, on_oom=OnOom.ROW))


def _labels(folder: Path) -> list[str]:
    """The answers by their number."""
    config = read_json(folder, "config.json")
    if config.get("model_type") != "vilt":
        raise ModelLoadError(
            f"{folder} holds a {config.get('model_type')}; generator.backend vilt wants a vilt"
        )
    labels = config.get("id2label") or {}
    if not labels or all(str(label).startswith("LABEL_") for label in labels.values()):
        raise ModelLoadError(f"{folder} names no answers: its config.json has no id2label")
    return [str(labels[str(number)]) for number in range(len(labels))]


def _to_pil(image: Image) -> Any:
    from PIL import Image as PIL

    return PIL.fromarray(image)
