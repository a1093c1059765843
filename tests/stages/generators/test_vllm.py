"""vLLM's engine: what it is given and what is made of its outputs, with a stand-in; and the engine itself."""

import asyncio
import importlib.util
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from stages.base import Image
from stages.checkpoints import ModelLoadError, resolve
from stages.generators.backends import load_generator
from stages.generators.config import Backend, GeneratorConfig, GeneratorRun, Quantization
from stages.generators.protocol import (
    FailedRequest,
    FinishReason,
    GenerationError,
    Request,
    Result,
    Sampling,
    Turn,
)
from stages.generators.vllm.engine import Engine, EngineModel, load_engine_model
from stages.generators.vllm.requests import engine_prompt, result_of, sampling_params
from stages.schemas import Status

CONFIG = GeneratorConfig("pocket:captioner", Backend.VLLM, max_new_tokens=20)


@dataclass
class Logprob:
    """As vLLM's."""

    logprob: float
    decoded_token: str | None = None


@dataclass
class Completion:
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = "stop"


@dataclass
class Output:
    request_id: str
    outputs: list[Completion]
    prompt_token_ids: list[int] = field(default_factory=lambda: [1, 2, 3])
    finished: bool = True


class Dead(Exception):
    pass


class StandIn:
    """An engine that ends texts in a random order; each says what it was asked."""

    def __init__(self, processor: Any, most: int = 1) -> None:
        self._processor, self._rng = processor, np.random.default_rng(4)
        self._most = most
        self._arrived: list[asyncio.Event] = []
        self.peak = 0
        self.names: list[str] = []
        self.encoded: set[str] = set()

    def engine(self) -> Engine:
        return Engine(self.generate, lambda params, final: params, lambda: None, (Dead,))

    async def generate(self, prompt: Any, params: Mapping[str, Any], name: str) -> AsyncIterator[Output]:
        text = self._processor.tokenizer.decode(prompt["prompt_token_ids"])
        self.names.append(name)
        self.encoded |= set(prompt.get("multi_modal_uuids", {"image": ()})["image"])
        if "too long" in text:
            raise ValueError("the prompt is longer than\nthe model")
        if "deadly" in text:
            raise Dead("out of memory")
        await self._wait()
        yield Output(name, [Completion(f"said {text}", [5, 6])], list(prompt["prompt_token_ids"]))

    async def _wait(self) -> None:
        """Until so many requests are here at once, and then for a little."""
        mine = asyncio.Event()
        self._arrived.append(mine)
        self.peak = max(self.peak, len(self._arrived))
        if len(self._arrived) >= self._most:
            for event in self._arrived:
                event.set()
        await mine.wait()
        await asyncio.sleep(self._rng.uniform(0, 0.02))
        self._arrived.remove(mine)


@pytest.fixture(scope="module")
def processor() -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(resolve("pocket:captioner", None), local_files_only=True)


@pytest.fixture
def stand_in(processor: Any) -> StandIn:
    return StandIn(processor)


@pytest.fixture
def model(processor: Any, stand_in: StandIn) -> Iterator[EngineModel]:
    made = EngineModel(CONFIG, processor, stand_in.engine)
    yield made
    made.close()


def _picture(seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def _requests(prompts: list[str]) -> list[Request]:
    return [Request(number, (_picture(),), prompt) for number, prompt in enumerate(prompts)]


PROMPTS = [f"is it {word}?" for word in ("red", "blue", "green", "one", "two", "a circle", "a square")]


def test_generate_of_texts_that_end_in_any_order_gives_each_request_its_own(model: EngineModel) -> None:
    results = model.generate(_requests(PROMPTS))
    assert [result.id for result in results] == list(range(len(PROMPTS)))
    for prompt, result in zip(PROMPTS, results, strict=True):
        assert isinstance(result, Result)
        assert prompt.removesuffix("?") in result.text


def test_generate_of_several_threads_is_under_way_in_the_engine_at_once(processor: Any) -> None:
    both = 2 * len(PROMPTS)
    stand_in = StandIn(processor, most=both)
    model = EngineModel(CONFIG, processor, stand_in.engine)
    with ThreadPoolExecutor(2) as threads:
        calls = list(threads.map(model.generate, [_requests(PROMPTS)] * 2))
    model.close()
    assert stand_in.peak == both
    assert len(set(stand_in.names)) == both
    assert [[type(result) for result in results] for results in calls] == [[Result] * len(PROMPTS)] * 2


def test_generate_names_a_picture_the_same_for_all_its_questions(
    model: EngineModel, stand_in: StandIn
) -> None:
    model.generate(_requests(PROMPTS))
    assert len(stand_in.encoded) == 1
    model.generate([Request(0, (_picture(1),), PROMPTS[0])])
    assert len(stand_in.encoded) == 2


def test_generate_gives_the_engine_the_conversation_with_a_mark_for_each_picture(
    processor: Any, model: EngineModel
) -> None:
    turns = (Turn("is it red?", "yes"),)
    request = Request(0, (_picture(), _picture(1)), "is it one?", turns)
    (result,) = model.generate([request])
    assert isinstance(result, Result)
    tokens = processor.tokenizer(result.text.removeprefix("said "), add_special_tokens=False)["input_ids"]
    assert tokens.count(processor.image_token_id) == 2
    assert result.text.index("red") < result.text.index("yes") < result.text.index("one")


def test_generate_of_a_request_that_the_engine_refuses_fails_that_row_alone(model: EngineModel) -> None:
    results = model.generate(_requests(["is it red?", "too long"]))
    assert isinstance(results[0], Result)
    assert isinstance(results[1], FailedRequest)
    assert results[1].status is Status.FAILED
    assert "longer than the model" in results[1].error


def test_generate_of_requests_that_are_all_refused_raises(model: EngineModel) -> None:
    with pytest.raises(GenerationError, match="longer than"):
        model.generate(_requests(["too long", "too long"]))


def test_generate_of_an_engine_that_died_raises(model: EngineModel) -> None:
    with pytest.raises(GenerationError, match="died"):
        model.generate(_requests(["is it red?", "deadly"]))


def test_stream_tells_the_text(model: EngineModel) -> None:
    assert "is it red" in "".join(model.stream(_requests(["is it red?"])[0]))


def test_sampling_params_hold_what_the_request_asks_for() -> None:
    greedy = sampling_params(Request(0, (), "q"), CONFIG, "q")
    assert (greedy["temperature"], greedy["max_tokens"], greedy["n"]) == (0.0, 20, 1)
    request = Request(0, (_picture(),), "q", schema='{"type": "object"}', sampling=Sampling(0.7, 0.9, 5))
    drawn = sampling_params(request, CONFIG, "q")
    assert (drawn["temperature"], drawn["top_p"], drawn["json"]) == (0.7, 0.9, '{"type": "object"}')


def test_sampling_params_seed_depends_on_picture_prompt_and_seed_and_on_nothing_else() -> None:
    base = Request(0, (_picture(),), "q", sampling=Sampling(0.7, 0.9, 5))
    others = [
        (replace(base, images=(_picture(1),)), "q"),
        (base, "other"),
        (replace(base, sampling=Sampling(0.7, 0.9, 6)), "q"),
    ]
    seed = sampling_params(base, CONFIG, "q")["seed"]
    assert sampling_params(replace(base, id=9), CONFIG, "q")["seed"] == seed
    assert seed not in [sampling_params(request, CONFIG, prompt)["seed"] for request, prompt in others]


def test_engine_prompt_without_pictures_is_tokens_alone() -> None:
    assert engine_prompt(Request(0, (), "q"), [4, 5]) == {"prompt_token_ids": [4, 5]}


def _finished(text: str, tokens: Mapping[str, float], reason: str = "stop") -> Output:
    logprobs = [{at: Logprob(number, token)} for at, (token, number) in enumerate(tokens.items())]
    return Output("0-1", [Completion(text, list(range(len(tokens))), logprobs, reason)])


def test_result_of_an_output_has_its_counts_and_mean_log_probability() -> None:
    output = _finished("a cat", {"a": -0.5, " cat": -1.5, "</s>": -1.0}, "length")
    result = result_of(7, "0-1", "describe", output, 2.5)
    assert result == Result(7, "a cat", FinishReason.LENGTH, 3, 3, None, -1.0, 2.5)


def test_result_of_a_model_that_thinks_counts_the_log_probabilities_of_its_answer() -> None:
    output = _finished("hm</think>four", {"hm": -4.0, "</think>": -0.1, "four": -2.0})
    result = result_of(7, "0-1", "how many? <think>\n", output, 1.0)
    assert isinstance(result, Result)
    assert (result.thinking, result.text, result.mean_logprob) == ("hm", "four", -2.0)


def test_result_of_a_primed_monologue_has_no_answer() -> None:
    output = _finished("hm, hm", {"hm": -1.0}, "length")
    result = result_of(7, "0-1", "how many? <think>\n", output, 1.0)
    assert isinstance(result, Result)
    assert (result.thinking, result.text, result.mean_logprob) == ("hm, hm", "", None)


@pytest.mark.parametrize(
    "output",
    [
        Output("0-2", [Completion("of another", [1])]),
        Output("0-1", [Completion("half", [1])], finished=False),
        Output("0-1", []),
        Output("0-1", [Completion("a", [1]), Completion("b", [1])]),
    ],
    ids=["another's", "unfinished", "none", "two"],
)
def test_result_of_an_output_that_is_not_the_one_answer_raises(output: Output) -> None:
    with pytest.raises(GenerationError, match="0-1"):
        result_of(7, "0-1", "q", output, 1.0)


def test_result_of_an_aborted_output_is_a_failed_row() -> None:
    result = result_of(7, "0-1", "q", Output("0-1", [Completion("", [], None, "abort")]), 1.0)
    assert isinstance(result, FailedRequest)
    assert (result.id, result.status) == (7, Status.FAILED)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_load_without_vllm_says_how_to_install_it_in_one_line() -> None:
    with pytest.raises(ModelLoadError, match=r"pip install 'darkroom\[vllm\]'") as raised:
        load_engine_model(CONFIG, GeneratorRun())
    assert "\n" not in str(raised.value)


def test_load_with_quantization_by_config_is_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"generator\.quantization"):
        load_engine_model(replace(CONFIG, quantization=Quantization.NF4), GeneratorRun())


@pytest.mark.gpu
def test_real_engine_gives_texts_json_and_counts_like_the_transformers_backend() -> None:
    """`DARKROOM_VLLM_MODEL`: a checkpoint folder of a small model that both know, such as Qwen2-VL-2B."""
    pytest.importorskip("vllm")
    model = os.environ.get("DARKROOM_VLLM_MODEL")
    if not model:
        pytest.skip("DARKROOM_VLLM_MODEL is not set")
    config = GeneratorConfig(model, Backend.VLLM, max_new_tokens=40)
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
    requests = [Request(0, (_picture(),), "Describe the image."), Request(1, (), "How many?", schema=schema)]
    engine = load_engine_model(config, GeneratorRun())
    described, counted = engine.generate(requests)
    engine.close()
    other = load_generator(replace(config, backend=Backend.TRANSFORMERS), GeneratorRun())
    (plain,) = other.generate(requests[:1])
    assert isinstance(described, Result)
    assert isinstance(counted, Result)
    assert isinstance(plain, Result)
    assert described.prompt_tokens == plain.prompt_tokens
    assert described.text.split()[:3] == plain.text.split()[:3]
    assert isinstance(json.loads(counted.text)["n"], int)
