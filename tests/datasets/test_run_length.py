"""COCO's run lengths against masks that were encoded pixel by pixel, and against pycocotools."""

import numpy as np
import pytest

from sret_jax.datasets.run_length import decode_runs
from tests.support.twins import runs_of


def masks():
    rng = np.random.default_rng(0)
    blob = np.zeros((70, 90), bool)
    blob[10:60, 20:71] = True
    yield from (blob, ~blob, np.zeros((5, 3), bool), np.ones((5, 3), bool))
    yield from (rng.random((37, 41)) < p for p in (0.02, 0.5, 0.98))


@pytest.mark.parametrize("mask", list(masks()))
def test_a_list_of_runs_gives_the_mask(mask):
    np.testing.assert_array_equal(decode_runs(runs_of(mask), mask.shape), mask)


def test_text_by_hand():
    # 6 of 2 x 4 pixels are 0, two 1; 38 + 48 ("f") is 6 + 32: more follows; 1 << 5 is then missing, so one character
    np.testing.assert_array_equal(decode_runs("62", (2, 4)), decode_runs([6, 2], (2, 4)))
    # fourth number 3 is 1 more than the one two before; the fifth is two less than the third, -2 = 30 = "N"
    expected = decode_runs([1, 2, 4, 3, 2], (3, 4))
    np.testing.assert_array_equal(decode_runs("1241N", (3, 4)), expected)


@pytest.mark.parity
@pytest.mark.parametrize("mask", list(masks()))
def test_text_equals_that_of_pycocotools(mask):
    reference = pytest.importorskip("pycocotools.mask")
    text = reference.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    np.testing.assert_array_equal(decode_runs(text, mask.shape), mask)


@pytest.mark.parametrize(
    "counts",
    [
        [3, 4],
        [-1, 9],
        [1.5, 6.5],
        [[8]],
        [],
        "",
        "9",
        "f",
        "\x00",
        "oooooooooooooooooo",
        [2**62, 2**62, 2**62, 2**62 + 8],
    ],
)
def test_runs_that_do_not_fill_the_mask_are_refused(counts):
    with pytest.raises(ValueError, match=r"2x4 pixels|compressed runs"):
        decode_runs(counts, (4, 2))
