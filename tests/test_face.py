"""`import sret_jax`: what a newcomer meets first costs nothing, and is what it says."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

import sret_jax
from tests.support.commands import REPOSITORY

IMPORT = """
import json, sys, time
start = time.process_time()
import sret_jax
seconds = time.process_time() - start
heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"jax", "jaxlib", "numpy", "flax", "scipy", "PIL"})
print(json.dumps([seconds, heavy, sret_jax.__version__, sorted(dir(sret_jax))]))
"""


@pytest.fixture(scope="module")
def imported():
    done = subprocess.run([sys.executable, "-c", IMPORT], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_nothing_heavy_is_imported_before_it_is_used(imported):
    seconds, heavy, _, _ = imported
    assert not heavy and seconds < 0.3


def test_the_version_is_that_of_what_is_installed(imported):
    assert imported[2] == sret_jax.__version__ == version("sret_jax")


def test_every_name_is_there_and_listed(imported):
    assert set(sret_jax.__all__) <= set(imported[3])  # what completion offers, before anything is used
    for name in sret_jax.__all__:
        assert getattr(sret_jax, name) is not None
    from sret_jax.evaluation.run import evaluate
    from sret_jax.retriever import load

    assert sret_jax.load is load and sret_jax.evaluate is evaluate


def test_an_unknown_name_is_an_attribute_error_that_says_what_there_is():
    with pytest.raises(AttributeError, match="module 'sret_jax' has no attribute 'lod'; it has __version__, .*load"):
        _ = sret_jax.lod
    with pytest.raises(ImportError, match="cannot import name 'lod'"):
        from sret_jax import lod  # noqa: F401
