import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.metrics.meteor import MeteorMissing, find_jar, meteor
from tests.stages.metrics.frozen import captions, example, frozen

# Stands in for Java: answers each line of standard input with the next line of a file.
_ANSWERS = """#!{python}
import sys
for asked, answer in zip(sys.stdin, open({answers!r})):
    assert asked.startswith("SCORE ||| "), asked
    print(answer.strip(), flush=True)
"""


def stand_in(folder: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A jar whose `java` gives these answers; only its answers are made up."""
    answers, java, jar = folder / "answers", folder / "bin" / "java", folder / "meteor-1.5.jar"
    answers.write_text("\n".join(lines), "utf-8")
    java.parent.mkdir()
    java.write_text(_ANSWERS.format(python=sys.executable, answers=str(answers)), "utf-8")
    java.chmod(0o755)
    jar.touch()
    monkeypatch.setenv("PATH", str(java.parent), prepend=":")
    return jar


def test_meteor_makes_of_the_counts_what_the_program_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = frozen("meteor")
    jar = stand_in(tmp_path, known["statistics"], monkeypatch)
    found = meteor(example(), find_jar(jar))
    assert found.score() == pytest.approx(known["score"], abs=1e-12)
    assert known["score"] == pytest.approx(0.195254671778, abs=1e-12)
    np.testing.assert_allclose(found.items(), known["items"], atol=1e-12)


def test_meteor_of_odd_items_is_that_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = frozen("meteor")
    lines = known["statistics"] + known["edge_statistics"]
    jar = stand_in(tmp_path, lines, monkeypatch)
    found = meteor(captions(["a"] * len(lines), [["a"]] * len(lines)), jar)
    assert found.score() == pytest.approx(known["all"], abs=1e-12)
    np.testing.assert_allclose(found.items()[1000:], known["edge_items"], atol=1e-12)


def test_meteor_that_ends_early_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = stand_in(tmp_path, frozen("meteor")["statistics"][:3], monkeypatch)
    with pytest.raises(MeteorMissing, match="item 3 of 1000"):
        meteor(example(), jar)


def test_meteor_without_java_names_what_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeteorMissing, match="Java"):
        find_jar()


def test_meteor_without_its_program_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, [], monkeypatch)
    with pytest.raises(MeteorMissing, match="nowhere"):
        find_jar(tmp_path / "nowhere.jar")


@pytest.mark.slow
def test_meteor_of_the_official_example_by_the_real_program() -> None:
    try:
        jar = find_jar()
    except MeteorMissing as missing:
        pytest.skip(str(missing))
    assert shutil.which("java")
    assert meteor(example(), jar).score() == pytest.approx(0.19525467177780284, abs=1e-10)
