"""Nights that ask with more than pixels: captions, tags, metadata, own questions, groups of images."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines import cli
from pipelines.corpus import Corpus
from stages.pocket.corpus import write_pictures
from stages.schemas import shard_of

PICTURES, SHARD_ROWS = 9, 4
QUESTIONS = """
mine:
  questions:
    - {name: seen, question: "{caption} {tags} how many objects are there?"}
    - {name: place, question: "taken in {metadata.city}. what color is the background?"}
    - name: clip
      images: group by metadata.clip order by metadata.frame
      question: what kind of picture is this?
    - {name: again, follows: clip, question: "how many objects are there?"}
"""


@dataclass(frozen=True)
class Photos:
    """Nine pictures and a copy of the first; three of them, of three shards, are a clip."""

    folder: Path
    uris: list[str]

    def words(self, corpus: Path, *more: str) -> list[str]:
        files = {
            "questions": "questions.yaml",
            "context.metadata": "known.csv",
            "context.questions": "own.jsonl",
            "context.tags.labels": "labels.txt",
        }
        context = [f"{key}={self.folder / name}" for key, name in files.items()]
        night = ["nightly", f"source.path={self.folder / 'pictures'}", f"corpus={corpus}", "cluster=local"]
        return [*night, "tracking=off", "index=none", *context, *more]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder / "pictures", PICTURES, seed=31)
    files = sorted(path for path in (folder / "pictures").rglob("*") if path.is_file())
    shutil.copy(files[0], folder / "pictures" / "zz copy.png")
    uris = [path.relative_to(folder / "pictures").as_posix() for path in files]
    frames = {uris[8]: 0, uris[0]: 1, uris[5]: 2}
    rows = [
        f"{uri},city {n},{'one' if uri in frames else ''},{frames.get(uri, '')}" for n, uri in enumerate(uris)
    ]
    (folder / "known.csv").write_text("\n".join(["uri,city,clip,frame", *rows, "zz copy.png,Zug,,"]))
    (folder / "own.jsonl").write_text(json.dumps({"uri": uris[3], "name": "mine", "question": "what is it?"}))
    (folder / "labels.txt").write_text("a sign\na bar chart\nshapes\n")
    (folder / "questions.yaml").write_text(QUESTIONS)
    return Photos(folder, uris)


@pytest.fixture(scope="module")
def corpus(photos: Photos, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    """A finished night in small shards."""
    folder = tmp_path_factory.mktemp("asked") / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.SHARD_ROWS", SHARD_ROWS)
        assert cli.main(photos.words(folder)) == 0
        yield Corpus(str(folder))


def read(corpus: Corpus, dataset: str) -> pa.Table:
    return pa.concat_tables(table for _, table in corpus.scan(dataset))


def answers(corpus: Corpus) -> dict[tuple[str, str], dict[str, Any]]:
    """By URI and name of the question, without what differs between runs and shards."""
    items = read(corpus, "items")
    uris = dict(zip(items["image_id"].to_pylist(), items["uri"].to_pylist(), strict=True))
    found = {}
    for row in read(corpus, "answers/pocket").to_pylist():
        images = None if row["images"] is None else [uris[one] for one in row["images"]]
        kept = {key: row[key] for key in ("question", "answer", "status", "prompt_tokens")}
        found[uris[row["image_id"]], row["name"]] = kept | {"images": images}
    return found


def test_night_asks_with_the_caption_and_the_tags_of_each_image(photos: Photos, corpus: Corpus) -> None:
    captions = read(corpus, "captions/pocket")["caption"].to_pylist()
    found = answers(corpus)
    for uri, caption in zip(photos.uris, captions, strict=False):
        question = found[uri, "seen"]["question"]
        assert caption in question
        assert {"a sign", "a bar chart", "shapes"} <= set(
            question.split("<tags>")[1].split("<")[0].split(", ")
        )


def test_night_asks_with_the_metadata_of_each_image_also_of_copies(photos: Photos, corpus: Corpus) -> None:
    found = answers(corpus)
    cities = {uri: f"city {number}" for number, uri in enumerate(photos.uris)} | {"zz copy.png": "Zug"}
    for uri, city in cities.items():
        assert city in found[uri, "place"]["question"]


def test_night_asks_a_clip_once_with_images_of_other_shards_in_order(photos: Photos, corpus: Corpus) -> None:
    found = answers(corpus)
    frames = [photos.uris[8], photos.uris[0], photos.uris[5]]
    asked = {uri: row for (uri, name), row in found.items() if name == "clip"}
    assert list(asked) == [frames[0]]
    assert asked[frames[0]]["images"] == frames
    assert asked[frames[0]]["status"] == "ok"
    assert [uri for uri, name in found if name == "again"] == [frames[0]]
    ids = read(corpus, "items")
    shards = {
        shard_of(item)
        for item, uri in zip(ids["image_id"].to_pylist(), ids["uri"].to_pylist(), strict=True)
        if uri in frames
    }
    assert len(shards) == 3


def test_night_asks_an_image_its_own_question_and_no_other(photos: Photos, corpus: Corpus) -> None:
    assert [uri for uri, name in answers(corpus) if name == "mine"] == [photos.uris[3]]


def test_night_in_one_shard_gives_the_same_answers(photos: Photos, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.SHARD_ROWS", 512)
        assert cli.main(photos.words(tmp_path / "corpus")) == 0
    assert answers(Corpus(str(tmp_path / "corpus"))) == answers(corpus)


@pytest.mark.ray
@pytest.mark.slow
def test_night_on_ray_gives_the_same_answers(
    photos: Photos, corpus: Corpus, ray_cluster: None, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.SHARD_ROWS", SHARD_ROWS)
        words = [word for word in photos.words(tmp_path / "corpus") if word != "cluster=local"]
        assert cli.main([*words, "cluster=ray"]) == 0
    assert answers(Corpus(str(tmp_path / "corpus"))) == answers(corpus)


def test_night_again_has_nothing_to_do(photos: Photos, corpus: Corpus) -> None:
    before = [
        corpus.read_bytes("answers/pocket", f"shard-{n:010d}.parquet")
        for n in corpus.shards("answers/pocket")
    ]
    assert cli.main(photos.words(Path(corpus.location))) == 0
    assert len(corpus.entries("runs")) == 1
    assert before == [
        corpus.read_bytes("answers/pocket", f"shard-{n:010d}.parquet")
        for n in corpus.shards("answers/pocket")
    ]


def test_answerer_after_the_captions_reads_those_that_are_there(
    photos: Photos, corpus: Corpus, tmp_path: Path
) -> None:
    shutil.copytree(corpus.location, tmp_path / "corpus")
    later = (
        "captioner=none",
        "encoder=none",
        "answerer=pocket",
        "answerer.name=later",
        "context.captions=pocket",
    )
    words = [word for word in photos.words(tmp_path / "corpus", *later) if not word.startswith("questions=")]
    assert cli.main([*words, "questions=['{caption} what is it?']"]) == 0
    made = read(Corpus(str(tmp_path / "corpus")), "answers/later")
    made = made.filter(pc.equal(made["name"], "0"))  # without the question that one image brings
    captions = read(corpus, "captions/pocket")["caption"].to_pylist()
    questions = made["question"].to_pylist()
    assert all(caption in question for caption, question in zip(captions, questions, strict=True))


def test_answers_are_not_those_of_other_captions(
    photos: Photos, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(corpus.location, tmp_path / "corpus")
    other = ("captioner.what.prompt=describe the image in detail.", "overwrite=[captions/pocket]")
    assert cli.main(photos.words(tmp_path / "corpus", *other)) == 1
    assert "answers/pocket" in capsys.readouterr().err
    assert read(Corpus(str(tmp_path / "corpus")), "captions/pocket").equals(read(corpus, "captions/pocket"))


@pytest.mark.parametrize(
    "wrong",
    [
        ["context.metadata=null"],
        ["context.tags=null"],
        ["encoder=none"],
        ["captioner=none", "answerer=pocket"],
        ["context.captions=of_nobody"],
        ["context.questions=/no/such/file.jsonl"],
        ["questions=/no/such/file.yaml"],
        ["knowledge=/no/such/file.yaml"],
        ["questions=[]", "context.questions=null", "answerer=pocket"],
        ["answerer=nobody"],
    ],
    ids=" ".join,
)
def test_night_that_lacks_what_its_questions_need_writes_nothing(
    photos: Photos, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    assert cli.main(photos.words(tmp_path / "corpus", *wrong)) in (1, 2)
    assert not (tmp_path / "corpus").exists()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("darkroom: ")


def test_verify_takes_questions_of_some_images_for_sound(
    photos: Photos, corpus: Corpus, tmp_path: Path
) -> None:
    assert cli.main(["verify", f"corpus={corpus.location}"]) == 0
    shutil.copytree(corpus.location, tmp_path / "corpus")
    only = tmp_path / "groups.yaml"
    only.write_text(
        "\n".join(line for line in QUESTIONS.splitlines() if "seen" not in line and "place" not in line)
    )
    more = ("answers=groups", "context.questions=null", f"questions={only}")
    assert cli.main(photos.words(tmp_path / "corpus", *more)) == 0
    assert len(read(Corpus(str(tmp_path / "corpus")), "answers/groups")) == 2
    assert cli.main(["verify", f"corpus={tmp_path / 'corpus'}"]) == 0


@pytest.mark.parametrize("first", [[], [0, 0]], ids=["lost", "doubled"])
def test_verify_finds_an_answer_that_is_lost_or_doubled(
    corpus: Corpus, tmp_path: Path, first: list[int]
) -> None:
    shutil.copytree(corpus.location, tmp_path / "corpus")
    copy = Corpus(str(tmp_path / "corpus"))
    whole = copy.read_shard("answers/pocket", 0)
    chosen = whole.take([*first, *range(1, len(whole))])
    assert whole["question_id"].to_pylist()[0] == 0
    (tmp_path / "corpus" / "answers" / "pocket" / "shard-0000000000.parquet").unlink()
    copy.write_shard("answers/pocket", 0, chosen)
    assert cli.main(["verify", f"corpus={copy.location}"]) != 0
