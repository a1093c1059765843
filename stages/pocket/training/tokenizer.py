"""A byte-level BPE tokenizer trained on the pictures' own language, in the two forms that the models need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from stages.pocket import clips, language, scenes
from stages.pocket.training.claims import concepts

PAD, BOS, EOS, IMAGE, USER, ASSISTANT = range(6)
SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "<|user|>", "<|assistant|>")
# The longest detailed caption takes 45 tokens with both ends; SigLIP pads every text to exactly this length.
TEXT_LENGTH = 48
PROMPT_LENGTH = 512
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def corpus(seed: int, count: int) -> Iterator[str]:
    """Everything that is said about `count` scenes and clips of the training side."""
    rng = np.random.default_rng((seed, 5))
    prompts = (language.CAPTION_PROMPT, language.DETAIL_PROMPT, language.JSON_PROMPT)
    for _ in range(count):
        scene = scenes.sample_split(rng, "train")
        yield from prompts
        yield from language.captions(scene)
        yield language.detail(scene)
        yield language.to_json(scene)
        for question in language.questions(scene, rng):
            yield from (question.text, question.answer)
        yield from (text for text, _ in concepts(scene, rng))
        yield from (text for pair in clips.questions(clips.sample_split(rng, "train")) for text in pair)


def train_bpe(seed: int, count: int = 4000) -> Tokenizer:
    """Of what is said about so many scenes."""
    return bpe_of(corpus(seed, count), SPECIAL)


def bpe_of(texts: Iterator[str], special: Sequence[str]) -> Tokenizer:
    """Digits stand alone; merges go on until every word of the language is one token."""
    bpe = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe


def _wrapped(bpe: Tokenizer, length: int, **options: object) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(bpe.to_str()),
        bos_token=SPECIAL[BOS],
        eos_token=SPECIAL[EOS],
        pad_token=SPECIAL[PAD],
        model_max_length=length,
        **options,
    )


def captioner_tokenizer(bpe: Tokenizer) -> PreTrainedTokenizerFast:
    """Pads on the left, knows <image> and the chat template, adds no token on its own."""
    return _wrapped(
        bpe,
        PROMPT_LENGTH,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        extra_special_tokens={"image_token": SPECIAL[IMAGE]},
    )


def encoder_tokenizer(bpe: Tokenizer) -> PreTrainedTokenizerFast:
    """Adds both ends, pads on the right up to `TEXT_LENGTH`."""
    framed = Tokenizer.from_str(bpe.to_str())
    framed.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return _wrapped(framed, TEXT_LENGTH, padding_side="right")


def load_bpe(path: Path) -> Tokenizer:
    """The tokenizer saved at `path`."""
    return Tokenizer.from_file(str(path))
