"""Steps on Ray whose processes die."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.corpus import Corpus
from pipelines.flow import ClusterConfig, StepDiedError, run_flow
from pipelines.plan import NEW, extend, planned_shards
from pipelines.stream import Actors, Flow, Output, Step
from stages import schemas
from tests.stages.deadly_images import Killed, NotMade

ITEMS = Output("items", schemas.ITEMS)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Two files in one planned shard."""
    corpus = Corpus(str(tmp_path / "corpus"))
    files = [{"uri": uri, "size": 1, "mtime_ns": 1} for uri in ("a.jpg", "b.jpg")]
    extend(corpus, pa.Table.from_pylist(files, schema=NEW))
    return corpus


@pytest.mark.ray
@pytest.mark.parametrize(
    ("stage", "says"), [(Killed, "step embed: .* died"), (NotMade, "step embed .* no such folder")]
)
def test_run_flow_with_a_model_process_that_always_dies_ends_and_names_the_step(
    corpus: Corpus, ray_cluster: None, stage: type[Killed | NotMade], says: str
) -> None:
    steps = [Step("embed", {"model": stage}, Actors(cpus=0.5))]
    with pytest.raises(StepDiedError, match=says):
        list(run_flow(Flow(corpus, steps, [ITEMS]), planned_shards(corpus), ClusterConfig()))
