import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.checkpoints import Device
from stages.generators.asking import Outcome, ask
from stages.generators.checks.faults import ChecksConfig, OnDegenerate
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.image_text_to_text import ImageTextToText
from stages.generators.protocol import FailedRequest, FinishReason, Request, Result, Sampling
from stages.schemas import Status
from tests.stages.generators.tiny_models import photographs, save_model

KEEP = ChecksConfig()
RETRY = ChecksConfig(on_degenerate=OnDegenerate.RETRY, retries=3)
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"color": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["color", "count"],
    }
)
GOOD = '{"color": "red", "count": 2}'
LOOP = "a cup of tea and " * 8


class Scripted:
    """A model whose text for a request is decided by its prompt, its turns and its sampling."""

    notes = ()

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        self.texts = texts  # by prompt: the greedy text, then that of seed 1, 2, …
        self.asked: list[Request] = []

    def generate(self, requests: Sequence[Request], /) -> list[Result | FailedRequest]:
        self.asked.extend(requests)
        return [self._one(request) for request in reversed(requests)]

    def _one(self, request: Request) -> Result | FailedRequest:
        prompt = request.turns[-1].prompt + " again" if request.turns else request.prompt
        if prompt not in self.texts:
            return FailedRequest(request.id, Status.FAILED, "RuntimeError: no such prompt")
        seed = request.sampling.seed if request.sampling else 0
        return Result(request.id, self.texts[prompt][seed], FinishReason.STOP, 1, seed)


def request(id: int, prompt: str, schema: str | None = None) -> Request:
    return Request(id, (np.zeros((2, 2, 3), np.uint8),), prompt, schema=schema)


def asked(
    texts: Mapping[str, Sequence[str]], checks: ChecksConfig, schema: str | None = None
) -> list[Outcome]:
    return ask(Scripted(texts), [request(id, prompt, schema) for id, prompt in enumerate(texts)], checks)


def text(outcome: Outcome) -> str | None:
    return outcome.result.text if outcome.result else None


def test_ask_keeps_the_order_of_the_requests() -> None:
    made = asked({"who": ["a cat"], "where": ["a mat"], "when": ["now"]}, KEEP)
    assert [(text(one), one.status, one.error) for one in made] == [
        ("a cat", "ok", None),
        ("a mat", "ok", None),
        ("now", "ok", None),
    ]


def test_ask_nothing_gives_nothing() -> None:
    assert ask(Scripted({}), [], RETRY) == []


def test_ask_request_that_fails_has_its_status_and_no_text() -> None:
    (outcome,) = ask(Scripted({}), [request(0, "who")], RETRY)
    assert outcome == Outcome(Status.FAILED, "RuntimeError: no such prompt", None)


def test_ask_degenerate_text_is_kept_beside_its_status() -> None:
    (outcome,) = asked({"who": [LOOP]}, KEEP)
    assert (outcome.status, text(outcome)) == (Status.REPETITIVE, LOOP)
    assert outcome.error


def test_ask_retry_takes_the_first_good_text() -> None:
    bad, good = asked({"who": [LOOP, "", "a cat", "a dog"], "where": ["a mat", LOOP]}, RETRY)
    assert (bad.status, bad.error, text(bad), bad.tries) == (Status.OK, None, "a cat", 3)
    assert (text(good), good.tries) == ("a mat", 1)


def test_ask_retry_without_a_good_text_keeps_the_first() -> None:
    (outcome,) = asked({"who": ["", LOOP, LOOP, LOOP, "a cat"]}, RETRY)
    assert (outcome.status, text(outcome), outcome.tries) == (Status.NO_TEXT, "", 4)


def test_ask_retry_samples_as_configured_from_the_seed_of_the_request() -> None:
    model = Scripted({"who": [""] * 9})
    checks = ChecksConfig(OnDegenerate.RETRY, retries=2, retry_temperature=0.4, retry_top_p=0.5)
    ask(model, [replace(request(0, "who"), sampling=Sampling(1.0, 1.0, 5))], checks)
    assert [one.sampling for one in model.asked] == [
        Sampling(1.0, 1.0, 5),
        Sampling(0.4, 0.5, 6),
        Sampling(0.4, 0.5, 7),
    ]


def test_ask_outcome_does_not_depend_on_the_requests_beside_it() -> None:
    texts = {"who": [LOOP, "a cat"], "where": ["a mat", LOOP], "when": ["", "", "", "now"], "why": [""] * 4}
    alone = [asked({prompt: found}, RETRY)[0] for prompt, found in texts.items()]
    together = asked(texts, RETRY)
    assert [(one.status, one.error, text(one), one.tries) for one in together] == [
        (one.status, one.error, text(one), one.tries) for one in alone
    ]


@pytest.mark.parametrize("said", [GOOD, f"```json\n{GOOD}\n```", f"Here it is:\n```\n{GOOD}```\n"])
def test_ask_json_that_follows_the_schema_is_parsed(said: str) -> None:
    (outcome,) = asked({"what": [said]}, KEEP, SCHEMA)
    assert (outcome.status, outcome.data, text(outcome)) == (Status.OK, {"color": "red", "count": 2}, said)


def test_ask_json_is_repaired_once_with_its_error_named() -> None:
    model = Scripted({"what": ['{"color": "red"}'], "what again": [GOOD]})
    (outcome,) = ask(model, [request(0, "what", SCHEMA)], KEEP)
    assert (outcome.status, outcome.data, outcome.tries) == (Status.OK, {"color": "red", "count": 2}, 2)
    repair = model.asked[1]
    assert "'count' is a required property" in repair.prompt
    assert [(turn.prompt, turn.text) for turn in repair.turns] == [("what", '{"color": "red"}')]
    assert repair.schema == SCHEMA


@pytest.mark.parametrize(
    "said", ["red, two", '{"color": 1, "count": 2}', '{"color": NaN, "count": 2}', "[" * 99_999]
)
def test_ask_json_that_stays_invalid_keeps_the_first_text(said: str) -> None:
    (outcome,) = asked({"what": [said], "what again": ["no"]}, KEEP, SCHEMA)[:1]
    assert (outcome.status, outcome.data, text(outcome)) == (Status.INVALID_JSON, None, said)
    assert outcome.error
    assert len(outcome.error) < 300
    assert "\n" not in outcome.error


def test_ask_json_with_a_number_that_is_none_is_invalid() -> None:
    assert asked({"what": ["[NaN]"]}, KEEP, '{"type": "array"}')[0].status is Status.INVALID_JSON


def test_ask_json_without_repairs_is_asked_once() -> None:
    (outcome,) = asked({"what": ["red"], "what again": [GOOD]}, ChecksConfig(json_repairs=0), SCHEMA)[:1]
    assert (outcome.status, outcome.tries) == (Status.INVALID_JSON, 1)


def test_ask_json_that_loops_in_a_value_is_repetitive() -> None:
    said = json.dumps({"color": LOOP, "count": 2})
    assert asked({"what": [said]}, KEEP, SCHEMA)[0].status is Status.REPETITIVE


def test_ask_json_without_a_letter_is_ok() -> None:
    (outcome,) = asked({"what": ["[]"]}, KEEP, '{"type": "array"}')
    assert (outcome.status, outcome.data) == (Status.OK, [])


def test_ask_json_of_like_values_is_ok() -> None:
    schema = '{"type": "array", "items": {"type": "string"}}'
    said = json.dumps(["a red circle"] * 40)
    assert asked({"what": [said]}, KEEP, schema)[0].status is Status.OK


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "must be JSON"),
        ('{"type": "colour"}', "not a JSON schema"),
        ('{"properties": {"a": {"$ref": "http://127.0.0.1:9/a.json"}}}', "refers|http://127"),
        ('{"$ref": "#/$defs/nowhere"}', "nowhere"),
    ],
)
def test_ask_bad_schema_raises(schema: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked({"what": ['{"a": 1}']}, KEEP, schema)


def test_ask_again_samples_other_texts_of_a_real_model_whatever_the_batch(tmp_path: Path) -> None:
    """Greedy text of this model goes round; sampled at a high temperature it hardly does."""
    config = GeneratorConfig(str(save_model(tmp_path, "blip", ends=())), max_new_tokens=64)
    model = ImageTextToText(config, GeneratorRun(batch_size=4, device=Device.CPU, threads=1))
    requests = [Request(row, (image,), "") for row, image in enumerate(photographs())]
    kept = ask(model, requests, KEEP)
    bad = [outcome.result for outcome in kept if outcome.status is not Status.OK]
    assert len(bad) >= 3
    checks = ChecksConfig(OnDegenerate.RETRY, retries=2, retry_temperature=3.0, retry_top_p=1.0)
    again = ask(model, requests, checks)
    assert [outcome.status for outcome in again] == [Status.OK] * 5
    assert [one.tries > 1 for one in again] == [one.status is not Status.OK for one in kept]
    alone = [ask(model, [one], checks)[0] for one in requests]
    assert [text(one) for one in alone] == [text(one) for one in again]
