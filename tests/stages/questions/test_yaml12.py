import pytest

from stages.questions.yaml12 import load_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[yes, no, on, off, y]", ["yes", "no", "on", "off", "y"]),
        ("[2024-01-02, 12:30, 010, 1_000, 0x1F]", ["2024-01-02", "12:30", "010", "1_000", "0x1F"]),
        ("[true, null, ~, -3, 1.5, 1e3]", [True, None, None, -3, 1.5, 1000.0]),
        ("a:\nb: ''", {"a": None, "b": ""}),
    ],
)
def test_load_yaml_plain_words_are_text(text: str, value: object) -> None:
    assert load_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3", r"'a' is there twice \(line 3\)"),
        ("1: a", "1 is not text"),
        ("a: [", "line 1"),
        ("a: !!python/object:os.system x", "python/object:os.system"),
        ("a: \x07", "not allowed"),
    ],
)
def test_load_yaml_bad_text_is_refused_in_one_line(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        load_yaml(text)
    assert "\n" not in str(caught.value)
