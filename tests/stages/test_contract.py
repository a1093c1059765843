"""What holds for every stage: rows kept in order, columns added, no dependence on where a shard was cut."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stages.answer import AnswerConfig, AnswerQuestions
from stages.base import VIEW, Stage, view_column
from stages.caption import CaptionConfig, CaptionImages, caption_view
from stages.count import CountPatches
from stages.decode import DecodeConfig, DecodeImages, DecodeRun
from stages.embed import EmbedConfig, EmbedImages, EmbedRun, encoder_view
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.pocket.corpus import write_broken, write_pictures
from stages.questions.files import load_questions
from stages.resize import Policy, ResizeConfig
from stages.schemas import ANSWERS_COLUMN, CAPTION_COLUMN, PLAN, embedding_column, image_id
from stages.sources.config import SourceConfig, SourceRun
from stages.sources.folder import ReadFolder, list_folder
from stages.stores import open_store
from tests.stages.unmeasured import unmeasured

ENCODER = EmbedConfig("pocket:encoder")
GENERATOR = GeneratorConfig("pocket:captioner", max_new_tokens=40)
CAPTIONS = CaptionConfig(GENERATOR)
BUDGET = ResizeConfig(policy=Policy.PATCH_BUDGET, max_patches=64, plain_share=0.5)
VIEWS = {"encoder": encoder_view(ENCODER), "captioner": caption_view(CAPTIONS), "budget": BUDGET}


@dataclass(frozen=True)
class Case:
    """A stage, how to make it over a folder of pictures, and the columns it adds."""

    name: str
    make: Callable[[Path], Stage]
    adds: dict[str, pa.DataType]


TEXT, SIDE = pa.string(), pa.int32()
CASES = [
    Case(
        "read",
        lambda folder: ReadFolder(SourceConfig(str(folder)), SourceRun()),
        {"bytes": pa.large_binary(), "status": TEXT, "error": TEXT},
    ),
    Case(
        "decode",
        lambda _: DecodeImages(DecodeConfig(), DecodeRun(), VIEWS),
        {"sha256": TEXT, "format": TEXT, "height": SIDE, "width": SIDE}
        | {"original_height": SIDE, "original_width": SIDE}
        | {view_column(name): VIEW for name in VIEWS},
    ),
    Case("count", lambda _: CountPatches("budget", BUDGET), {"patches": SIDE, "patches_undetailed": SIDE}),
    Case(
        "embed",
        lambda _: EmbedImages(ENCODER, EmbedRun(batch_size=4, threads=1), "encoder"),
        {"embedding": embedding_column(192)},
    ),
    Case(
        "caption",
        lambda _: CaptionImages(CAPTIONS, GeneratorRun(batch_size=4, threads=1), "captioner"),
        {"caption": CAPTION_COLUMN},
    ),
    Case(
        "answer",
        lambda _: AnswerQuestions(
            AnswerConfig(
                GENERATOR, load_questions(["how many objects are there?", "what kind of picture is this?"])
            ),
            GeneratorRun(batch_size=4, threads=1),
            "captioner",
        ),
        {"answers": ANSWERS_COLUMN},
    ),
]
# What a stage is given: the rows as the stages before it leave them.
BEFORE = {"read": 0, "decode": 1, "count": 2, "embed": 2, "caption": 2, "answer": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = tmp_path_factory.mktemp("photos")
    write_pictures(photos, 9, seed=5)
    write_broken(photos, 4, seed=5)
    return photos


@pytest.fixture(scope="module")
def inputs(folder: Path) -> list[pa.Table]:
    """The plan rows of the folder, the same after reading, and after decoding. The bad are among the good."""
    files = sorted(
        pa.concat_tables(list_folder(open_store(str(folder)))).to_pylist(), key=lambda file: file["uri"][::-1]
    )
    rows = [{"image_id": image_id(3, row), **file} for row, file in enumerate(files)]
    tables = [pa.Table.from_pylist(rows, schema=PLAN)]
    for case in CASES[:2]:
        tables.append(case.make(folder)(tables[-1]))
    return tables


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    return chosen


def _given(case: Case, inputs: list[pa.Table]) -> pa.Table:
    return inputs[BEFORE[case.name]]


def _vectors(column: pa.ChunkedArray) -> list[list[float]]:
    return [row["embedding"] for row in column.to_pylist() if row["embedding"] is not None]


def _ends(column: pa.ChunkedArray) -> list[tuple[bool, str, str]]:
    rows = column.to_pylist()
    return [(row["embedding"] is None, row["status"], row["error"]) for row in rows]


def test_stage_keeps_rows_in_order_and_adds_its_columns(
    case: Case, folder: Path, inputs: list[pa.Table]
) -> None:
    shard = _given(case, inputs)
    made = case.make(folder)(shard)
    assert made["image_id"].equals(shard["image_id"])
    assert made["uri"].equals(shard["uri"])
    assert {name: made.schema.field(name).type for name in case.adds} == case.adds


def test_stage_on_an_empty_shard_gives_an_empty_one_of_the_same_columns(
    case: Case, folder: Path, inputs: list[pa.Table]
) -> None:
    shard, stage = _given(case, inputs), case.make(folder)
    made = stage(shard.slice(0, 0))
    assert len(made) == 0
    assert made.schema.names == stage(shard).schema.names
    assert {name: made.schema.field(name).type for name in case.adds} == case.adds


@pytest.mark.parametrize("cuts", [[1, 12], [5, 6, 7]], ids=str)
def test_stage_on_parts_gives_what_it_gives_on_the_whole(
    case: Case, folder: Path, inputs: list[pa.Table], cuts: list[int]
) -> None:
    shard, stage = _given(case, inputs), case.make(folder)
    bounds = [0, *cuts, len(shard)]
    parts = [stage(shard.slice(start, stop - start)) for start, stop in pairwise(bounds)]
    whole, joined = stage(shard), pa.concat_tables(parts)
    for name in case.adds:
        if name == "embedding":
            one, other = (_vectors(table[name]) for table in (whole, joined))
            np.testing.assert_allclose(one, other, atol=2e-3)
            assert _ends(whole[name]) == _ends(joined[name])
        else:
            assert unmeasured(whole[name]) == unmeasured(joined[name]), name


def test_stage_called_twice_gives_the_same(case: Case, folder: Path, inputs: list[pa.Table]) -> None:
    shard, stage = _given(case, inputs), case.make(folder)
    first, second = stage(shard), stage(shard)
    assert first.schema == second.schema
    assert unmeasured(first) == unmeasured(second)
