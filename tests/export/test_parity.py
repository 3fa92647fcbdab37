"""A program is given exactly what the network is shown, whatever filter and rounding it was trained with."""

import jax
import numpy as np
import pytest

from sret_jax.export.parity import BOUND, measured, photographs_of_all_shapes
from sret_jax.export.program import program
from tests.support.exported import SHOWN, shown_as, small_retriever
from tests.support.photos import photo_set


@pytest.mark.slow
@pytest.mark.parametrize("enlarge", [True, False])
@pytest.mark.parametrize(("filter", "rounding"), SHOWN)
@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet18"])  # sides of multiples, and of any size
def test_a_program_is_given_what_the_network_is_shown(backbone, filter, rounding, enlarge):
    retriever = shown_as(small_retriever(stage="c2", backbone=backbone), filter, rounding, enlarge)
    run = jax.jit(program(retriever))
    assert measured(retriever, lambda *x: np.asarray(run(*x)), photo_set(n=5)).difference < 1e-5


def test_a_descriptor_that_is_no_number_is_the_worst():
    retriever = small_retriever(stage="c2")
    found = measured(retriever, lambda images, masks: np.full((len(images), 24), np.nan), photo_set(n=2))
    assert not found.difference <= BOUND


def test_the_batches_are_those_that_were_run():
    ran = []

    def run(images, masks):
        ran.append(len(images))
        return np.zeros((len(images), 24), np.float32)

    found = measured(small_retriever(stage="c2"), run, photo_set(n=3))
    assert found.to_dict()["batches"] == sorted(set(ran)) == [1, 6]


def test_the_photographs_have_all_shapes():
    sizes = photographs_of_all_shapes().sizes
    ratios = sizes[:, 0] / sizes[:, 1]
    assert len(sizes) == 20 and (ratios > 1).any() and (ratios < 1).any() and (ratios == 1).any()
    assert ratios.max() >= 8 and ratios.min() <= 1 / 6 and sizes.max(1).min() < 33
