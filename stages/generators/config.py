"""What each way to generate text can be told: `what` changes the texts, `how` does not."""

from dataclasses import dataclass
from enum import StrEnum

from stages.batching import OnOom
from stages.checkpoints import Device, Dtype


class Backend(StrEnum):
    """Which code asks the model."""

    TRANSFORMERS = "transformers"  # what `AutoModelForImageTextToText` loads, in this process
    VILT = "vilt"  # one of a fixed list of answers, by classification
    CAPTION_THEN_LLM = "caption_then_llm"  # a captioner describes, a text model answers from that
    FEATURE_PREFIX = "feature_prefix"  # a text model that reads projected vision features
    OPENAI = "openai"  # a server that speaks OpenAI's chat completions
    VLLM = "vllm"  # vLLM's engine, in this process


TAKES_SEVERAL_CALLERS = (Backend.OPENAI, Backend.VLLM)
"""Backends whose generators several threads may call at once, to work on several shards."""


class Quantization(StrEnum):
    """Weights in fewer bits, by bitsandbytes, on a GPU."""

    NONE = "none"
    INT8 = "8bit"
    NF4 = "4bit"


class Sees(StrEnum):
    """What a served model is given of a picture."""

    IMAGE = "image"  # the picture, as a data URL
    CAPTION = "caption"  # its caption, as a file in DeepSeek's template: for models of text only
    EMBEDDING = "embedding"  # its vector as text, `clip_vector_v1`: no model reads it that was not trained to


@dataclass(frozen=True)
class ReasonerConfig:
    """The text model that answers from captions. Defaults are those that DeepSeek-R1's authors recommend."""

    model: str
    revision: str | None = None
    dtype: Dtype = Dtype.AUTO
    quantization: Quantization = Quantization.NONE
    max_new_tokens: int = 2048  # the thinking included
    temperature: float = 0.6
    top_p: float = 0.95
    caption_prompt: str = "describe the image in detail."

    def __post_init__(self) -> None:
        _check_text("reasoner.model", self.model)
        _check_text("reasoner.caption_prompt", self.caption_prompt)
        _check_sampling("reasoner", self.max_new_tokens, self.temperature, self.top_p)


@dataclass(frozen=True)
class ServerConfig:
    sees: Sees = Sees.IMAGE
    jpeg_quality: int = 90  # of the pictures in data URLs
    thinks: bool = (
        False  # the model thinks first, also where its text holds no <think>: R1 behind a plain server
    )

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"server.jpeg_quality must be from 1 to 100, got {self.jpeg_quality}")


@dataclass(frozen=True)
class GeneratorConfig:
    """What text is generated: everything here changes it."""

    model: str  # pocket:NAME, a checkpoint folder, a Hugging Face hub id, or a served model's name
    backend: Backend = Backend.TRANSFORMERS
    revision: str | None = None  # of the hub id: a commit, tag or branch
    dtype: Dtype = Dtype.AUTO
    quantization: Quantization = Quantization.NONE
    max_new_tokens: int = 64
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # of sampling: the smallest set of tokens with this probability; 1 is all of them
    seed: int = 0  # of sampling
    max_side: int | None = None  # of the pictures handed over, in pixels; unset: what the model can use
    reasoner: ReasonerConfig | None = None  # of caption_then_llm
    server: ServerConfig | None = None  # of openai

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("generator.model must be pocket:NAME, a checkpoint folder or a hub id, got ''")
        _check_sampling("generator", self.max_new_tokens, self.temperature, self.top_p)
        if self.seed < 0:
            raise ValueError(f"generator.seed must be at least 0, got {self.seed}")
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"generator.max_side must be at least 1 or unset, got {self.max_side}")
        for section, backend in (("reasoner", Backend.CAPTION_THEN_LLM), ("server", Backend.OPENAI)):
            if getattr(self, section) is not None and self.backend is not backend:
                raise ValueError(
                    f"generator.{section} is for backend {backend.value}, got {self.backend.value}"
                )
        if self.backend is Backend.CAPTION_THEN_LLM and self.reasoner is None:
            raise ValueError("generator.reasoner must be set for backend caption_then_llm")


@dataclass(frozen=True)
class ServerRun:
    """How a server is asked. Requests, tokens and money count for the whole run, over all its actors."""

    url: str = "http://127.0.0.1:8000/v1"
    api_key_env: str = "OPENAI_API_KEY"  # the environment variable with the key, which is never stored
    max_concurrency: int = 64  # requests that one actor has under way
    requests_per_s: float | None = None
    tokens_per_minute: int | None = None
    deadline_s: float = 300.0  # of one request, all its attempts included, from when it is first sent
    timeout_s: float = 120.0  # of one attempt
    max_tokens_total: int | None = None  # of one run; when they are spent it ends, to be resumed
    max_cost: float | None = None  # likewise, in the currency of the prices
    prompt_price: float | None = None  # of a million tokens
    completion_price: float | None = None

    def __post_init__(self) -> None:
        _check_text("server.url", self.url)
        for key in ("max_concurrency", "deadline_s", "timeout_s"):
            _check_positive(f"server.{key}", getattr(self, key))
        for key in ("requests_per_s", "tokens_per_minute", "max_tokens_total", "max_cost"):
            if getattr(self, key) is not None:
                _check_positive(f"server.{key}", getattr(self, key))
        if self.max_cost is not None and None in (self.prompt_price, self.completion_price):
            raise ValueError("server.max_cost needs server.prompt_price and server.completion_price")


@dataclass(frozen=True)
class EngineRun:
    """How vLLM's engine is set up."""

    tensor_parallel: int = 1  # GPUs that share one copy of the weights
    memory_share: float = 0.9  # of a GPU's memory
    max_context: int | None = None  # tokens of prompt and text; unset: the model's own

    def __post_init__(self) -> None:
        _check_positive("engine.tensor_parallel", self.tensor_parallel)
        if not 0 < self.memory_share <= 1:
            raise ValueError(f"engine.memory_share must be above 0 and at most 1, got {self.memory_share}")
        if self.max_context is not None:
            _check_positive("engine.max_context", self.max_context)


@dataclass(frozen=True)
class GeneratorRun:
    """How text is generated: nothing here changes it beyond rounding.

    Stages with equal configs and equal runs share one model per process.
    """

    batch_size: int = 32  # texts that are generated together, at most
    batch_tokens: int = 65_536  # tokens of a batch, those to be generated and the padding included, at most
    device: Device = Device.AUTO
    threads: int | None = None  # of torch on the CPU; unset: torch's own choice
    max_kept_mb: int = 1024  # encoded images of the last shard, kept for the next stage; 0: none
    on_oom: OnOom = OnOom.ROW  # an image that runs out of memory alone; cpu: weights are loaded there too
    server: ServerRun | None = None
    engine: EngineRun | None = None

    def __post_init__(self) -> None:
        for key in ("batch_size", "batch_tokens"):
            if getattr(self, key) < 1:
                raise ValueError(f"captioner.{key} must be at least 1, got {getattr(self, key)}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"captioner.threads must be at least 1 or unset, got {self.threads}")
        if self.max_kept_mb < 0:
            raise ValueError(f"captioner.max_kept_mb must be at least 0, got {self.max_kept_mb}")


def _check_sampling(section: str, max_new_tokens: int, temperature: float, top_p: float) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"{section}.max_new_tokens must be at least 1, got {max_new_tokens}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"{section}.temperature must be 0 (greedy) or more, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"{section}.top_p must be above 0 and at most 1, got {top_p}")


def _check_text(key: str, text: str) -> None:
    if not text.strip():
        raise ValueError(f"{key} must not be empty")


def _check_positive(key: str, number: float) -> None:
    if not 0 < number < float("inf"):
        raise ValueError(f"{key} must be above 0, got {number}")
