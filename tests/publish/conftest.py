"""A local hub that huggingface_hub talks to in place of the real one."""

import huggingface_hub.constants as constants
import pytest
from publish.local_hub import TOKEN, LocalHub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = LocalHub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield server
    server.close()
