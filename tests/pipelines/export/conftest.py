import pytest

from tests.pipelines.export.exported_corpus import Made, make


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Nobody changes it."""
    return make(tmp_path_factory.mktemp("exported"))
