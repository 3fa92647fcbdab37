"""What nothing has trained is known by the layers that are as they start."""

import numpy as np

from sret_jax.evaluation.report.maps import untrained_parts


def test_a_part_is_untrained_while_a_layer_of_it_is_as_it_starts():
    start = {
        "block_0": {"gate": {"kernel": np.zeros((2, 1)), "bias": np.ones(1)}, "reduce": {"kernel": np.ones((2, 2))}}
    }
    trained = {"controls": {"kernel": np.full((2, 2), 1e-4), "bias": np.zeros(2)}}
    assert untrained_parts({"refinement": start, "smoothing": trained, "backbone": start}) == ["refinement"]
    assert untrained_parts({"backbone": start}) == []
