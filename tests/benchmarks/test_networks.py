"""What benchmarks look at inside of a network; and that every script still finds what it imports."""

import importlib
import importlib.util

import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.retriever import Retriever
from tests.support import runs
from tests.support.commands import REPOSITORY
from tests.support.networks import NETWORK, VARIABLES

SCRIPTS = sorted(path.stem for path in (REPOSITORY / "benchmarks").glob("*.py"))


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_finds_what_it_imports(benchmarks, name):
    try:
        benchmarks(name)
    except ModuleNotFoundError as error:  # of a package that it is compared with
        if importlib.util.find_spec(error.name.partition(".")[0]) is not None:
            raise
        pytest.skip(f"{error.name} is not installed")


def test_only_layers_that_nothing_filled_get_random_numbers(benchmarks):
    known = np.arange(6, dtype=np.float32)
    variables = {"params": {"pool": known, "whitening": {"kernel": jnp.full((3, 2), jnp.nan)}}}
    params = benchmarks("networks").filled(variables)["params"]
    assert np.array_equal(params["pool"], known)
    kernel = params["whitening"]["kernel"]
    assert kernel.dtype == np.float32 and np.isfinite(kernel).all() and kernel.std() > 0


def test_the_map_is_that_of_the_network(benchmarks):
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 40, 3), np.uint8)
    mask = np.ones((1, 32, 40), bool)
    mask[:, :, 32:] = False
    found, inside = benchmarks("networks").map_of(Retriever(NETWORK, VARIABLES, runs.config()))(images, mask)
    assert np.array_equal(inside, mask[:, ::8, ::8])
    _, intermediates = NETWORK.apply(VARIABLES, jnp.asarray(images), jnp.asarray(mask))
    np.testing.assert_allclose(found, intermediates["map"], rtol=1e-5)
