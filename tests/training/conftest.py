import pytest

from tests.support.tiny_training import make_tiny


@pytest.fixture
def tiny(monkeypatch):
    """`run(config, workdir, steps=None)` of the tiny network; see `make_tiny`."""
    return make_tiny(monkeypatch)
