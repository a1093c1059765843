from pathlib import Path
from typing import Any

import pytest

from pipelines.redact import MASK, looks_secret, redact, redact_text


@pytest.mark.parametrize(
    "key",
    [
        *("token", "hf_token", "accessToken", "HF_TOKEN", "password", "db-password", "client_secret"),
        *("api_key", "apiKey", "apikey", "aws_access_key_id", "secret_access_key", "credentials", "auth"),
    ],
)
def test_key_that_names_a_secret_is_masked(key: str) -> None:
    assert redact({"deep": [{key: "hunter2"}]}) == {"deep": [{key: MASK}]}


@pytest.mark.parametrize(
    "key", ["max_tokens", "tokenizer", "author", "key", "keys", "pad_token_id", "question_key", "passes"]
)
def test_key_that_only_resembles_a_secret_is_kept(key: str) -> None:
    assert not looks_secret(key)
    assert redact({key: "value"}) == {key: "value"}


@pytest.mark.parametrize("value", ["OPENAI_API_KEY", "${oc.env:HF_TOKEN}", "", None, True])
def test_value_that_refers_to_a_secret_is_kept(value: Any) -> None:
    assert redact({"api_key": value}) == {"api_key": value}


@pytest.mark.parametrize("value", ["${oc.env:HF_TOKEN,hunter2}", 12345, {"user": "x"}, ["a"]])
def test_value_of_any_type_under_a_secret_key_is_masked(value: Any) -> None:
    assert redact({"api_key": value}) == {"api_key": MASK}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:hunter2@host/a", "https://***@host/a"),
        ("postgresql+psycopg2://me:hunter2@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("https://blob/a.jpg?sp=r&sig=hunter2%3D&sv=1", "https://blob/a.jpg?sp=r&sig=***&sv=1"),
        ("https://s3/a?X-Amz-Signature=hunter2", "https://s3/a?X-Amz-Signature=***"),
        ("https://s3/a?X-Amz-Security-Token=hunter2", "https://s3/a?X-Amz-Security-Token=***"),
        ("run --hf_token=hunter2 now", "run --hf_token=*** now"),
        ('{"password": "hunter2"}', '{"password": "***"}'),
        ("Authorization: Bearer hunter2", "Authorization: Bearer ***"),
        ("hf_abcdefghijklmnopqrstuvwxyz", "***"),
    ],
)
def test_text_with_a_secret_keeps_the_rest(text: str, expected: str) -> None:
    assert redact_text(text) == expected
    assert redact({"value": [text]}) == {"value": [expected]}


@pytest.mark.parametrize(
    "text", ["https://host/a?w=640&h=480", "me@example.org", "s3://bucket/a@2x.png", "max_tokens=64", "a/b:c"]
)
def test_text_without_a_secret_is_unchanged(text: str) -> None:
    assert redact_text(text) == text


def test_config_redacted_leaves_the_original_alone() -> None:
    config = {"a": {"token": "hunter2"}, "path": Path("/data")}

    assert redact(config) == {"a": {"token": MASK}, "path": "/data"}
    assert config["a"] == {"token": "hunter2"}


@pytest.mark.parametrize("text", ["t" * 200_000, "a." * 100_000, "?" * 200_000, "a://" * 50_000])
def test_text_of_any_length_takes_linear_time(text: str) -> None:
    assert redact_text(text) == text
