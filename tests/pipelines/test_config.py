"""The menu of configurations: every option composes, and what is wrong ends in one line."""

from pathlib import Path

import pytest
import yaml

from pipelines.config import CONF, ConfigError, as_dict, load, menu, to_yaml
from pipelines.jobs import NightlyConfig
from stages.resize import Policy

NIGHTLY = ["source.path=photos", "corpus=corpus"]
OPTIONS = sorted(path for path in CONF.glob("*/*.yaml"))


@pytest.mark.parametrize("option", OPTIONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_option_of_every_group_composes(option: Path) -> None:
    config = load("nightly", [*NIGHTLY, f"{option.parent.name}={option.stem}"])
    assert isinstance(config, NightlyConfig)


@pytest.mark.parametrize("file", [*OPTIONS, *CONF.glob("*.yaml")], ids=lambda path: path.stem)
def test_every_key_of_the_menu_is_explained(file: Path) -> None:
    lines = file.read_text("utf-8").splitlines()
    assert lines[0].startswith("#")
    assert isinstance(yaml.safe_load("\n".join(lines)), dict)


def test_experiment_sets_keys_over_the_defaults_and_under_the_command_line() -> None:
    config = load("nightly", [*NIGHTLY, "experiment=demo", "report.searches=1"])
    assert len(config.questions) == 2
    assert len(config.report.queries) == 3
    assert config.report.searches == 1


def test_menu_of_nightly_shows_every_file() -> None:
    text = menu("nightly")
    for option in OPTIONS:
        assert option.read_text("utf-8") in text


def test_load_takes_values_for_nested_keys() -> None:
    config = load("nightly", [*NIGHTLY, "encoder.how.batch_size=7", "encoder.what.resize.policy=pad"])
    assert config.encoder.how.batch_size == 7
    assert config.encoder.what.resize.policy is Policy.PAD


def test_load_with_group_none_leaves_the_section_out() -> None:
    config = load("nightly", [*NIGHTLY, "captioner=none", "index=null"])
    assert config.captioner is None
    assert config.index is None
    assert config.encoder is not None


@pytest.mark.parametrize(
    "text",
    [
        "what's this, a cat?",
        "a=b",
        "{x}",
        "[x]",
        "back\\slash\\",
        "it\\'s",
        'two "quotes"',
        "über 日本",
        "50% (half)",
        "1",
        "true",
        "#1",
    ],
)
def test_load_takes_any_text_as_it_is(text: str) -> None:
    assert load("search", ["corpus=c", f"text={text}"]).text == text


def test_load_takes_questions_as_a_list() -> None:
    config = load("nightly", [*NIGHTLY, 'questions=["how many?", what color]'])
    assert config.questions == ("how many?", "what color")


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["corpus=c"], ["source.path"]),
        (["source.path=p"], ["corpus"]),
        ([*NIGHTLY, "encoder.how.batch_size=0"], ["encoder.how.batch_size", "at least 1"]),
        ([*NIGHTLY, "encoder.how.batch_size=many"], ["encoder.how.batch_size", "many"]),
        ([*NIGHTLY, "encodr.name=x"], ["encodr", "encoder"]),
        ([*NIGHTLY, "encoder.how.batchsize=3"], ["encoder.how.batchsize", "batch_size"]),
        ([*NIGHTLY, "encoder=resnet"], ["encoder", "resnet", "siglip"]),
        ([*NIGHTLY, "encoder.what.dtype=int8"], ["encoder.what.dtype", "bfloat16"]),
        ([*NIGHTLY, "encoder.what.resize.policy=stretch"], ["encoder.what.resize.policy", "square"]),
        ([*NIGHTLY, "encoder.name=../up"], ["encoder.name"]),
        ([*NIGHTLY, "captioner.how.server.max_concurrency=2"], ["how.server", "openai", "transformers"]),
        ([*NIGHTLY, "captioner.how.engine.memory_share=0.5"], ["how.engine", "vllm", "transformers"]),
        ([*NIGHTLY, "captioner.actors.shards_in_flight=2"], ["shards_in_flight", "openai", "vllm"]),
        ([*NIGHTLY, "encoder.actors.shards_in_flight=2"], ["shards_in_flight", "encoder"]),
        ([*NIGHTLY, "answerer=nobody", "questions=[why?]"], ["nobody", "pocket_reasoner"]),
        ([*NIGHTLY, "captioner.what.generator.top_p=0"], ["captioner.what.generator.top_p"]),
        ([*NIGHTLY, "index.factory=OPQ"], ["index.factory"]),
        ([*NIGHTLY, "index.nprobe=0"], ["index.nprobe", "at least 1"]),
        ([*NIGHTLY, "decode.what.max_pixels=-1"], ["decode.what.max_pixels"]),
        ([*NIGHTLY, "cluster.cpus=0"], ["cluster.cpus", "at least 1"]),
        ([*NIGHTLY, "encoder=none", "captioner=none"], ["encoder", "captioner"]),
        ([*NIGHTLY, "captioner=none", "questions=[why]"], ["questions", "captioner"]),
        ([*NIGHTLY, "+extra=1"], ["extra"]),
        ([*NIGHTLY, "questions=[unclosed"], ["questions"]),
        ([*NIGHTLY, "loose"], ["loose", "key=value"]),
    ],
)
def test_load_with_wrong_configuration_names_the_key_in_one_line(
    overrides: list[str], named: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load("nightly", overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in named if part not in message] == []


@pytest.mark.parametrize(
    "overrides", [[], ["text=a", "image=b"], ["text=a", "k=0"], ["text=a", "format=xml"], ["text=a", "k=x"]]
)
def test_load_search_without_one_clear_query_fails(overrides: list[str]) -> None:
    with pytest.raises(ConfigError):
        load("search", ["corpus=c", *overrides])


def test_config_as_yaml_composes_to_the_same_values() -> None:
    config = load("nightly", [*NIGHTLY, "questions=[a, b]"])
    assert yaml.safe_load(to_yaml(as_dict(config))) == as_dict(config)
