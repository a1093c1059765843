"""Imports run one way: schemas <- base <- stages <- pipelines <- cli; each big library has one door."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for name in ("stages", "pipelines", "darkroom") for path in ROOT.glob(f"{name}/**/*.py")
)

# Which files may import a library at all.
DOORS = {
    "ray": {"pipelines/flow.py", "pipelines/index/workers.py"},
    "mlflow": {"pipelines/tracking.py", "pipelines/recorder.py"},
    "hydra": {"pipelines/config.py", "pipelines/cli.py"},
    "omegaconf": {"pipelines/config.py", "pipelines/cli.py"},
    "faiss": {"stages/index/blas.py"},
}
# Files whose classes are stages: none imports another.
STAGES = {
    "decode",
    "embed",
    "caption",
    "answer",
    "count",
    "isolate",
    "tags",
    *(f"sources.{one}" for one in ("folder", "tar", "parquet", "uris")),
}
# What a pipelines module may import of its own package: only names further left.
LAYERS = [
    {
        "interrupt",
        "room",
        "startup",
        "redact",
        "legible",
        "quantities",
        "provenance",
        "index_facts",
        "facts",
        "preview_facts",
        "progress",
        "composition",
        "buckets",
        "parquet",
        "shards",
        "pages",
        "index.rates",
        "terms",
    },
    {"chart", "evaluation.facts", "condition"},
    {"evaluation.trend"},
    {"files", "identity", "report", "terminal", "recorder", "index.costs"},
    {"corpus"},
    {"source_record", "journal", "lock", "tracking", "stream", "vectors", "where", "query_file"},
    {"changes", "containers", "forgotten", "encoders"},
    {"plan"},
    {"planned"},
    {"evaluation.formats", "evaluation.taken_down", "context", "metadata"},
    {"evaluation.references", "evaluation.matching"},
    {"evaluation.questions", "evaluation.predictions"},
    {"evaluation.matched"},
    {"reuse"},
    {"local"},
    {"flow", "source_diff", "tally"},
    {"index.layout", "index.workers", "index.reading"},
    {"index.kept", "index.templates"},
    {"index.parts", "index.survey", "index.texts"},
    {"index.opened", "index.units", "index.training", "index.queries"},
    {"index.truth", "index.stock", "index.drift", "index.described", "nearest"},
    {"index.build"},
    {"index.forgetting"},
    {"jobs"},
    {"index_jobs", "text_jobs", "evaluate_jobs", "export_jobs", "thumbnails"},
    {"config"},
    {"export.tally"},
    {"export.chosen", "export.target"},
    {"export.metadata", "export.pictures", "export.job"},
    {"export.index_file", "export.webdataset", "export.hf", "export.texts"},
    {"export.clip_retrieval"},
    {"export.run"},
    {"run_record"},
    {"conversation"},
    {"chat"},
    {"product"},
    {"answering"},
    {"datasets", "search", "describe", "compact", "forget", "fuse", "indexing"},
    {"batch_search", "neighbours"},
    {"integrity", "index.inspection", "index.salvage", "repair", "verify"},
    {"survey", "forecast", "missing", "index.plan"},
    {"preview"},
    {"night"},
    {"page"},
    {"nightly"},
    {"evaluation.scored", "evaluation.record", "evaluation.pictures", "evaluation.tables"},
    {"evaluation.captions", "evaluation.compare"},
    {"evaluation.answers", "evaluation.retrieval"},
    {"evaluation.classification"},
    {"evaluation.making"},
    {"evaluation.evaluate"},
    {"commands"},
    {"cli"},
]


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions; not those for type checking only."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_module_imports_libraries_only_through_their_door(path: Path) -> None:
    used = {module.split(".")[0] for module in _imports(path)} & DOORS.keys()
    assert [library for library in used if _name(path) not in DOORS[library]] == []


@pytest.mark.parametrize("path", [p for p in SOURCES if _name(p).startswith("stages/")], ids=_name)
def test_stage_module_imports_neither_pipelines_nor_another_stage(path: Path) -> None:
    own = _name(path).removeprefix("stages/").removesuffix(".py").replace("/", ".")
    for module in _imports(path):
        assert module.split(".")[0] not in ("pipelines", "conf", "darkroom", "tests"), module
        other = module.removeprefix("stages.")
        assert not (module != other and other in STAGES and own in STAGES and other != own), module


def test_schemas_and_base_import_nothing_above_them() -> None:
    own = {"stages/schemas.py": set(), "stages/base.py": {"stages.schemas"}}
    for name, allowed in own.items():
        used = {module for module in _imports(ROOT / name) if module.startswith(("stages", "pipelines"))}
        assert used <= allowed, name


@pytest.mark.parametrize("path", [p for p in SOURCES if _name(p).startswith("pipelines/")], ids=_name)
def test_pipeline_module_imports_only_lower_layers(path: Path) -> None:
    rank = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    if path.stem == "__init__":
        return
    own = _name(path).removeprefix("pipelines/").removesuffix(".py").replace("/", ".")
    assert own in rank, f"{own} has no layer yet"
    imported = {module.removeprefix("pipelines.") for module in _imports(path)}
    used = {name for name in rank if any(one == name or one.startswith(f"{name}.") for one in imported)}
    above = [name for name in used if rank[name] > rank[own]]
    assert above == []
    assert "darkroom" not in {module.split(".")[0] for module in _imports(path)}


def test_package_for_notebooks_knows_no_command_line() -> None:
    for path in ROOT.glob("darkroom/*.py"):
        assert not {"pipelines.cli", "pipelines.commands", "pipelines.config"} & set(_imports(path))
