"""One server for all tests that only ask."""

import pytest
from serving import serving


@pytest.fixture(scope="session")
def server(trained_run):
    with serving(trained_run) as served:
        yield served


@pytest.fixture
def client(server):
    return server.client
