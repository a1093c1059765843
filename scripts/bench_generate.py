"""Captions and answers against transformers' own ways to generate; prints one JSON object a table line.

Everything runs on one thread, greedy, and takes turns in one process over pictures that nobody has seen yet.
Each turn gives one ratio of CPU seconds for each token, and the median of the ratios counts. That all write
the same texts is checked.

One by one: the loop that everybody writes first, a chat template, a processor and a `generate` for every
picture and prompt. Continuous batching takes no pictures: against it stand the same prompts without any, each
with the number of its picture so that no two are equal, to the same language model. Its start is not counted.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image as PIL

from stages.base import Image
from stages.checkpoints import Device, resolve
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.image_text_to_text import ImageTextToText
from stages.generators.protocol import Request, Result
from stages.pocket import language
from stages.pocket.drawing import draw
from stages.pocket.scenes import sample

QUESTIONS, NEW_TOKENS, SIDE = 5, 64, 96
# Of continuous batching: the texts of a turn fit at once. Left alone it takes nine tenths of the memory.
BLOCKS, BATCH_TOKENS = 512, 4096


@dataclass(frozen=True)
class Asked:
    """Some pictures, and the prompts about each: its caption and five questions."""

    images: Sequence[Image]
    prompts: Sequence[Sequence[str]]

    @property
    def pairs(self) -> Iterator[tuple[Image, str]]:
        for image, prompts in zip(self.images, self.prompts, strict=True):
            yield from ((image, prompt) for prompt in prompts)

    def numbered(self) -> "Asked":
        """No two prompts equal."""
        prompts = [[f"{n}: {prompt}" for prompt in some] for n, some in enumerate(self.prompts)]
        return Asked(self.images, prompts)


@dataclass(frozen=True)
class Written:
    """Texts in the order of the pairs, the tokens in all of them, and the CPU seconds that they took."""

    texts: Sequence[str]
    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


Way = Callable[[Asked], Written]


def drawn(count: int, rng: np.random.Generator) -> Asked:
    scenes = [sample(rng) for _ in range(count)]
    images = [draw(scene, rng, SIDE) for scene in scenes]
    texts = [[question.text for question in language.questions(scene, rng)] for scene in scenes]
    return Asked(images, [[language.CAPTION_PROMPT, *some[:QUESTIONS]] for some in texts])


def ours(one: ImageTextToText, pictures: bool) -> Way:
    """Captions first and then the answers, as a night does it."""

    def write(asked: Asked) -> Written:
        requests = [
            Request(number, (image,) if pictures else (), prompt)
            for number, (image, prompt) in enumerate(asked.pairs)
        ]
        each = len(asked.prompts[0])
        captions = requests[::each]
        answers = [request for number, request in enumerate(requests) if number % each]
        start = time.process_time()
        results = [result for some in (captions, answers) for result in one.generate(some)]
        seconds = time.process_time() - start
        made = {result.id: result for result in results if isinstance(result, Result)}
        return Written(
            [made[request.id].text for request in requests],
            sum(result.completion_tokens or 0 for result in made.values()),
            seconds,
        )

    return write


def one_by_one(model: Any, processor: Any) -> Way:
    @torch.inference_mode()
    def write(asked: Asked) -> Written:
        start, texts, tokens = time.process_time(), [], 0
        for image, prompt in asked.pairs:
            content: list[dict[str, Any]] = [
                {"type": "image", "image": PIL.fromarray(image)},
                {"type": "text", "text": prompt},
            ]
            inputs = templated(processor, content)
            output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
            made = output[0, inputs["input_ids"].shape[1] :]
            texts.append(processor.tokenizer.decode(made, skip_special_tokens=True).strip())
            tokens += len(made)
        return Written(texts, tokens, time.process_time() - start)

    return write


def templated(processor: Any, content: Sequence[Mapping[str, Any]]) -> Any:
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )


def continuous(manager: Any, processor: Any) -> Way:
    def write(asked: Asked) -> Written:
        start = time.process_time()
        prompts = [
            templated(processor, [{"type": "text", "text": prompt}])["input_ids"][0].tolist()
            for _, prompt in asked.pairs
        ]
        ids = manager.add_requests(inputs=prompts, max_new_tokens=NEW_TOKENS)
        found: dict[str, list[int]] = {}
        while len(found) < len(ids):
            result = manager.get_result(timeout=60)
            if result.is_finished():
                found[result.request_id] = result.generated_tokens
        decode = processor.tokenizer.batch_decode
        texts = [text.strip() for text in decode([found[id] for id in ids], skip_special_tokens=True)]
        return Written(texts, sum(map(len, found.values())), time.process_time() - start)

    return write


def row(what: str, against: str, goal: float | None, ways: tuple[Way, Way], turns: Sequence[Asked]) -> Any:
    """The first of the turns is to warm up."""
    pairs = [tuple(way(asked) for way in ways) for asked in turns][1:]
    for number, (own, other) in enumerate(pairs):
        if differing := sum(one != two for one, two in zip(own.texts, other.texts, strict=True)):
            raise SystemExit(f"{against}: {differing} of {len(own.texts)} texts of turn {number} differ")
    rates = [median(one.rate for one in side) for side in zip(*pairs, strict=True)]
    return {
        "what": what,
        "against": against,
        "ratio": median(own.rate / other.rate for own, other in pairs),
        "goal": goal,
        "measured": f"{rates[0]:,.0f} of {rates[1]:,.0f} tokens/s",
    }


def language_model(model: Any) -> Any:
    """The model without its vision tower, as the class that continuous batching takes."""
    alone = transformers.LlamaForCausalLM(model.config.text_config).eval()
    alone.model = model.model.language_model
    alone.lm_head = model.lm_head
    alone.generation_config = model.generation_config
    return alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--captioner", default="pocket:captioner", help="a DeepSeek-VL model")
    parser.add_argument("--quick", action="store_true", help="fewer pictures and turns")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = resolve(options.captioner)
    processor = transformers.AutoProcessor.from_pretrained(folder, padding_side="left")
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    run = GeneratorRun(device=Device.CPU, threads=1)
    one = ImageTextToText(GeneratorConfig(options.captioner, max_new_tokens=NEW_TOKENS), run)
    pictures, rounds = (16, 2) if options.quick else (64, 7)
    rng = np.random.default_rng(0)
    turns = [drawn(pictures, rng) for _ in range(rounds + 1)]
    what = f"a caption and {QUESTIONS} answers a picture, {options.captioner}"
    loop = one_by_one(model, processor)
    ways = ours(one, pictures=True), loop
    print(json.dumps(row(what, "one `generate` after the other", 3.0, ways, turns)), flush=True)
    room = transformers.ContinuousBatchingConfig(num_blocks=BLOCKS, max_batch_tokens=BATCH_TOKENS)
    batching = language_model(model).continuous_batching_context_manager
    with batching(continuous_batching_config=room) as manager:
        ways = ours(one, pictures=False), continuous(manager, processor)
        numbered = [asked.numbered() for asked in turns]
        print(json.dumps(row(f"{what}, no pictures", "continuous batching", None, ways, numbered)))


if __name__ == "__main__":
    main()
