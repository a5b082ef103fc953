"""What the tests of the t2r-server process share."""

import pytest

import make_models


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    return make_models.make(make_models.catalogue()["llama-t2r-clamp"], directory)
