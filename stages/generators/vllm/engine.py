"""Text about pictures by vLLM's engine in this process: requests join its batch whenever there is room."""

import asyncio
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.background import Background
from stages.checkpoints import ModelLoadError, loading, resolve
from stages.generators.config import EngineRun, GeneratorConfig, GeneratorRun, Quantization
from stages.generators.local.prompts import PromptRenderer
from stages.generators.protocol import FailedRequest, GenerationError, Request, Result
from stages.generators.vllm.requests import engine_prompt, result_of, sampling_params
from stages.schemas import Status

_AHEAD = 1024  # requests that are handed over before the first of them ends; its batches hold 256 or so
_NOTE = "vLLM's texts may differ in a few words from run to run: its sums depend on what else is in a batch"


@dataclass(frozen=True)
class Engine:
    """vLLM, or what behaves like it.

    `generate(prompt, params, id)`: its outputs, the last one final. `params`: its `SamplingParams` out of
    `sampling_params`, for the last output alone (`final`) or for each as it comes. `fatal`: errors after
    which it is dead; `faults`: those about one request, for what was wrong with it or went wrong with it.
    """

    generate: Callable[[Any, Any, str], AsyncIterator[Any]]
    params: Callable[[dict[str, Any], bool], Any]
    shutdown: Callable[[], None]
    fatal: tuple[type[Exception], ...] = ()
    faults: tuple[type[Exception], ...] = (ValueError,)


def load_engine_model(config: GeneratorConfig, run: GeneratorRun) -> "EngineModel":
    """Raises: ModelLoadError, also where vLLM is not installed."""
    if config.quantization is not Quantization.NONE:
        raise ModelLoadError(
            f"generator.quantization={config.quantization.value} is for backend transformers: vllm reads "
            "from the checkpoint how its weights are quantized"
        )
    folder = resolve(config.model, config.revision)
    return EngineModel(
        config, _load_processor(folder), lambda: _start(folder, config, run.engine or EngineRun())
    )


class EngineModel:
    """A `Generator` on an engine that takes requests as they come: several threads may call it at once.

    `start` makes the engine, in the event loop that it will run in. Raises: what `start` raises.
    """

    def __init__(self, config: GeneratorConfig, processor: Any, start: Callable[[], Engine]) -> None:
        self._config, self._processor = config, processor
        self._render, self._rendering = PromptRenderer(processor), threading.Lock()
        self._calls = itertools.count()
        self._ahead = asyncio.Semaphore(_AHEAD)
        engine: Engine | None = None

        async def open_engine() -> Engine:
            nonlocal engine
            engine = start()
            return engine

        async def close_engine() -> None:
            if engine:
                engine.shutdown()

        self._background = Background(close_engine)
        self._engine = self._background.run(open_engine())

    def close(self) -> None:
        """Nothing can be asked afterwards."""
        self._background.close()

    @property
    def notes(self) -> Sequence[str]:
        return [_NOTE]

    def generate(self, requests: Sequence[Request], /) -> list[Result | FailedRequest]:
        """Raises: GenerationError where the engine died, or finds fault with all of several requests."""
        results = self._background.run(self._answer_all(requests))
        failed = [result for result in results if isinstance(result, FailedRequest)]
        if len(failed) == len(results) > 1:
            raise GenerationError(f"vllm answers none of {len(failed)} requests: {failed[0].error}")
        return results

    def stream(self, request: Request, /) -> Iterator[str]:
        """Raises: GenerationError."""
        return self._background.iterate(self._parts(request))

    async def _answer_all(self, requests: Sequence[Request]) -> list[Result | FailedRequest]:
        call = next(self._calls)
        tasks = [asyncio.ensure_future(self._answer(request, f"{call}-{request.id}")) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        except self._engine.fatal as error:
            raise GenerationError(f"vllm's engine died: {_line(error)}") from error
        finally:
            for task in tasks:
                task.cancel()
            with self._rendering:
                self._render.forget()

    async def _answer(self, request: Request, name: str) -> Result | FailedRequest:
        async with self._ahead:
            start = time.monotonic()
            try:
                text, prompt, params = await asyncio.to_thread(self._prepared, request, True)
                final = None
                async for output in self._engine.generate(prompt, params, name):
                    final = output
            except self._engine.faults as error:  # a prompt that is too long, a schema that it cannot follow
                return FailedRequest(request.id, Status.FAILED, _line(error))
            if final is None:
                raise GenerationError(f"the engine has no answer to {name}")
            return result_of(request.id, name, text, final, time.monotonic() - start)

    def _prepared(self, request: Request, final: bool) -> tuple[str, Any, Any]:
        """The rendered prompt, and what the engine takes."""
        tokenizer = self._processor.tokenizer
        with self._rendering:  # a tokenizer works for one thread at a time
            prompt = self._render(request.prompt, request.turns, len(request.images))
            tokens = tokenizer(prompt.text, add_special_tokens=prompt.special_tokens)["input_ids"]
        params = sampling_params(request, self._config, prompt.text)
        return prompt.text, engine_prompt(request, tokens), self._engine.params(params, final)

    async def _parts(self, request: Request) -> AsyncIterator[str]:
        _, prompt, params = self._prepared(request, False)
        try:
            async for output in self._engine.generate(prompt, params, f"{next(self._calls)}-{request.id}"):
                if text := output.outputs[0].text:
                    yield text
        except (*self._engine.faults, *self._engine.fatal) as error:
            raise GenerationError(f"vllm: {_line(error)}") from error


def _line(error: BaseException) -> str:
    """vLLM wraps what goes wrong with a request in an error without words."""
    error = error if str(error) or error.__cause__ is None else error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _load_processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    with loading(folder):
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not getattr(processor, "chat_template", None):
        raise ModelLoadError(f"{folder} has no chat template, which backend vllm needs")
    return processor


def _start(folder: Path, config: GeneratorConfig, run: EngineRun) -> Engine:
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # read as it is imported
    try:
        from vllm import SamplingParams, exceptions
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
    except ImportError as error:
        raise ModelLoadError(
            f"generator.backend vllm needs pip install 'darkroom[vllm]', on Linux with a GPU: {error}"
        ) from error

    def params(wanted: dict[str, Any], final: bool) -> Any:
        schema = wanted.pop("json", None)
        structured = StructuredOutputsParams(json=schema) if schema is not None else None
        kind = RequestOutputKind.FINAL_ONLY if final else RequestOutputKind.DELTA
        return SamplingParams(**wanted, structured_outputs=structured, output_kind=kind)

    with loading(folder):
        engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=str(folder),
                dtype=config.dtype.value,
                seed=config.seed,
                trust_remote_code=False,
                load_format="safetensors",
                tensor_parallel_size=run.tensor_parallel,
                # Not Ray's own: this may be an actor, and its GPUs are what it was given.
                distributed_executor_backend="mp" if run.tensor_parallel > 1 else "uni",
                gpu_memory_utilization=run.memory_share,
                max_model_len=run.max_context,
                disable_log_stats=True,
            )
        )
    faults = (ValueError, EngineGenerateError, getattr(exceptions, "VLLMClientError", ValueError))
    return Engine(engine.generate, params, engine.shutdown, (EngineDeadError,), faults)
