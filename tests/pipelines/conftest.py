import pytest

from tests.pipelines.searched_corpus import Searched, make_searched


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Nobody changes it."""
    return make_searched(tmp_path_factory.mktemp("searched") / "corpus")
