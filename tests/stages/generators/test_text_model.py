"""Models of text only: which tokenizers are refused, and what becomes of earlier turns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stages.checkpoints import ModelLoadError
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.text_model import TextModel
from stages.generators.protocol import GenerationError, Request, Result, Turn
from stages.pocket import checkpoint

RUN = GeneratorRun(batch_size=4, threads=1)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(checkpoint("reasoner"), tmp_path / "reasoner")
    return tmp_path / "reasoner"


def _load(folder: Path) -> TextModel:
    return TextModel(GeneratorConfig(str(folder), max_new_tokens=8), RUN)


def _edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_text_model_tokenizer_that_would_drop_the_end_of_thinking_is_refused(copied: Path) -> None:
    _edit(copied / "tokenizer_config.json", extra_special_tokens=["</think>"])
    with pytest.raises(ModelLoadError, match="</think>"):
        _load(copied)


def test_text_model_tokenizer_without_padding_is_refused(copied: Path) -> None:
    _edit(copied / "tokenizer_config.json", pad_token=None)
    with pytest.raises(ModelLoadError, match="padding"):
        _load(copied)


def test_text_model_earlier_turns_are_read_and_need_a_chat_template(copied: Path) -> None:
    plain = Request(0, (), "what is it?")
    later = Request(1, (), "what is it?", turns=(Turn("is it red?", "yes"),))
    results = {one.id: one for one in _load(copied).generate([plain, later])}
    one, other = results[0], results[1]
    assert isinstance(one, Result)
    assert isinstance(other, Result)
    assert (other.prompt_tokens or 0) > (one.prompt_tokens or 0)
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(GenerationError, match="template"):
        _load(copied).generate([later])


def test_text_model_without_a_chat_template_goes_on_with_the_prompt_itself(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    (result,) = _load(copied).generate([Request(0, (), "a red star")])
    assert isinstance(result, Result)
    assert result.prompt_tokens == 3
    assert result.text  # nothing opened a thinking: all of it is the answer


def test_text_model_equal_requests_share_one_text(copied: Path) -> None:
    asked = [Request(id, (), prompt) for id, prompt in enumerate(["what?", "why?", "what?"])]
    results = sorted(_load(copied).generate(asked), key=lambda one: one.id)
    said = [(one.text, one.thinking) for one in results if isinstance(one, Result)]
    assert len(said) == 3
    assert said[0] == said[2]


def test_text_model_that_thinks_first_is_not_held_to_a_schema_while_it_does(copied: Path) -> None:
    schema = '{"type": "integer", "maximum": 9}'
    asked = [
        Request(0, (), "how many bars are there?", schema=schema),
        Request(1, (), "how many bars are there?"),
    ]
    held, free = sorted(TextModel(GeneratorConfig(str(copied)), RUN).generate(asked), key=lambda one: one.id)
    assert isinstance(held, Result)
    assert isinstance(free, Result)
    assert (held.text, held.thinking) == (free.text, free.thinking)
    assert held.thinking


def test_text_model_is_greedy_whatever_sampling_its_checkpoint_asks_for(copied: Path) -> None:
    question = Request(
        0, (), "[file content begin]\na red sign with the digits 4 2\n[file content end]\nwhy?"
    )
    (plain,) = _load(copied).generate([question])
    _edit(copied / "generation_config.json", do_sample=True, temperature=9.0, top_k=2, num_beams=3)
    (found,) = _load(copied).generate([question])
    assert isinstance(plain, Result)
    assert isinstance(found, Result)
    assert (found.thinking, found.text) == (plain.thinking, plain.text)


def test_text_model_log_probability_is_of_the_answer_alone(copied: Path) -> None:
    question = "[file content begin]\na red sign with the digits 4 2\n[file content end]\nwhat color is it?"
    whole = TextModel(GeneratorConfig(str(copied), max_new_tokens=64), RUN).generate(
        [Request(0, (), question)]
    )
    cut = TextModel(GeneratorConfig(str(copied), max_new_tokens=2), RUN).generate([Request(0, (), question)])
    assert isinstance(whole[0], Result)
    assert isinstance(cut[0], Result)
    assert whole[0].text
    assert whole[0].mean_logprob is not None
    assert cut[0].thinking
    assert cut[0].mean_logprob is None
