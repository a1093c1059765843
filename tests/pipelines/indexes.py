"""Indexes of the corpora that tests make."""

from pipelines.corpus import Corpus
from pipelines.flow import Backend, ClusterConfig
from pipelines.index.build import Built, Job, Wishes, build_index
from pipelines.index.layout import PARTS
from pipelines.index.opened import open_index
from pipelines.index.parts import open_part
from pipelines.index.workers import Crew
from stages.index.config import IndexConfig

LOCAL = Crew(ClusterConfig(Backend.LOCAL))


def build(
    corpus: Corpus,
    name: str,
    config: IndexConfig | None = None,
    wishes: Wishes | None = None,
    crew: Crew = LOCAL,
) -> Built:
    job = Job(corpus, name, config or IndexConfig(), crew, lambda line: None, wishes or Wishes())
    return build_index(job)


def held_ids(corpus: Corpus, name: str) -> list[int]:
    """The ids of all vectors that the current generation holds, in no order."""
    meta = open_index(corpus, name).meta
    lists = (open_part(corpus, name, (PARTS, part), meta.template) for part in meta.parts)
    return [item for one in lists for ids in one.ids() for item in ids.tolist()]
