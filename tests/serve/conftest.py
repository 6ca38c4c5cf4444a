"""One server for all tests that only ask."""

import shutil

import pytest
from serving import serving


@pytest.fixture(scope="session")
def evaluated_run(trained_run, tmp_path_factory):
    """A copy of the run with its evaluation; changes of labels are written beside its rows."""
    import finetune as ft

    run = tmp_path_factory.mktemp("served") / "run"
    shutil.copytree(trained_run, run)
    ft.evaluate(run)
    return run


@pytest.fixture(scope="session")
def server(evaluated_run):
    with serving(evaluated_run) as served:
        yield served


@pytest.fixture
def client(server):
    return server.client
