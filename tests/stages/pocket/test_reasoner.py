"""The reasoner's language: derivations that lead to answers, notes, tokens; and its shipped weights."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from stages.pocket import checkpoint, language, scenes
from stages.pocket.training import answering, reasoner
from stages.pocket.training.derivation import NOTE_WORDS, notes, thinking
from stages.pocket.training.segments import IGNORED, encoder_of


@cache
def _words() -> PreTrainedTokenizerFast:
    return reasoner.train_tokenizer(seed=0, count=300)


def test_thinking_ends_in_what_the_answer_says() -> None:
    rng = np.random.default_rng(1)
    seen = set()
    for scene in (scenes.sample(rng) for _ in range(300)):
        for question in language.questions(scene, rng):
            steps = thinking(scene, question.text)
            if question.type == "count":
                assert (re.findall(r"\d+$", steps) or ["0"]) == [question.answer]
            elif question.text.startswith(("which bar", "what is the largest")):
                assert question.answer in steps.split()[-2:]
            elif question.type in ("color", "shape", "where"):
                assert question.answer.removeprefix("a ").removeprefix("an ") in steps
            seen.add(question.type)
    assert len(seen) == 8


def test_notes_are_one_length_and_tell_scenes_apart() -> None:
    rng = np.random.default_rng(2)
    found = [scenes.sample(rng) for _ in range(500)]
    texts = [notes(scene) for scene in found]
    assert {len(text.split()) for text in texts} == {NOTE_WORDS}
    assert len(set(texts)) == len(set(map(scenes.key, found)))


def test_chat_template_opens_the_thinking_and_forgets_what_was_thought_before() -> None:
    talk = [
        {"role": "user", "content": "how many?"},
        {"role": "assistant", "content": "one, two</think>\n2"},
        {"role": "user", "content": "sure?"},
    ]
    text = _words().apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>how many?<|assistant|>\n2</s><|user|>sure?<|assistant|><think>\n"


def test_tokenizer_marks_of_thinking_are_single_tokens_that_stay_in_the_text() -> None:
    ids = _words()("<think>\nA 1</think>\n1").input_ids
    assert _words().decode(ids, skip_special_tokens=True) == "<think>\nA 1</think>\n1"
    assert len(_words()("</think>").input_ids) == 1


def test_pack_questions_see_the_document_and_their_own_past_only() -> None:
    encode = encoder_of(_words())
    scene = scenes.sample(np.random.default_rng(3))
    told = tuple(reasoner.everything(scene, np.random.default_rng(4))[:2])
    batch = reasoner.pack([reasoner.Document("a sign\n", told)], encode)
    seen = batch.mask()[0, 0] == 0
    first, second = (int(torch.nonzero(batch.segment[0] == number)[0]) for number in (1, 2))
    assert seen[second].nonzero().flatten().tolist() == [*range(first), second]
    assert batch.positions[0, first] == batch.positions[0, second] == first
    written = batch.ids[0][batch.labels[0] != IGNORED].tolist()
    assert written == [token for one in told for token in (*encode(one.text), reasoner.EOS)]


def test_pack_head_and_question_are_tokenised_as_in_the_rendered_prompt() -> None:
    encode = encoder_of(_words())
    rng = np.random.default_rng(5)
    for scene in (scenes.sample(rng) for _ in range(20)):
        head = reasoner.FILE.format(language.detail(scene))
        one = reasoner.everything(scene, rng)[-1]
        talk = [{"role": "user", "content": head + one.prompt}]
        asked = _words().apply_chat_template(talk, add_generation_prompt=True)["input_ids"]
        packed = reasoner.pack([reasoner.Document(head, (one,))], encode).ids[0].tolist()
        assert packed[: len(asked)] == asked


def test_packaged_reasoner_is_small_and_computes_in_float32() -> None:
    folder = checkpoint("reasoner")
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    assert model.dtype == torch.float32
    assert model.num_parameters() <= 1_400_000
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4_000_000
    assert AutoTokenizer.from_pretrained(folder, local_files_only=True).padding_side == "left"


def test_packaged_reasoner_answers_questions_about_held_out_captions() -> None:
    tasks = answering.asked(answering.REASONER, seed=22, count=10)
    found = answering.scores(answering.REASONER, answering.from_true_captions(tasks))
    assert found["answer, all"].share >= 0.85
