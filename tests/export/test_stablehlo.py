"""One program for all batches and sizes computes the descriptors, or the part that cannot be one is named."""

from dataclasses import replace

import numpy as np
import pytest

from sret_jax.config import RefinementConfig, SmoothingConfig
from sret_jax.errors import UserError
from sret_jax.export.parity import network_inputs, padded
from sret_jax.export.stablehlo import FILE, PLATFORMS, StableHLO, to_stablehlo
from tests.support.exported import small_retriever
from tests.support.photos import photo_set

PHOTOS = photo_set(n=5)
CONTEXT = {
    "stage": "c2",
    "whitening": True,
    "whitening_dim": 8,
    "smoothing": SmoothingConfig(enabled=True, hidden=4, kernel_dim=2),
    "refinement": RefinementConfig(enabled=True, nodes=6, neighbours=2, blocks=1),
}


def program(retriever, tmp_path) -> StableHLO:
    pytest.importorskip("flatbuffers")
    data, about = to_stablehlo(retriever)
    (tmp_path / FILE).write_bytes(data)
    assert about["platforms"] == list(PLATFORMS)
    return StableHLO(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "learned"),
    [
        (CONTEXT, 5),
        ({"stage": "c2", "refinement": RefinementConfig(True, form="free", nodes=6, width=8, neighbours=2)}, 0),
        ({"stage": "c2", "backbone": "resnet18"}, 0),
        ({"stage": "c2", "backbone": "resnet18", "pool": "superglobal"}, 0),
        ({"stage": "c4", "backbone": "dinov2_vits14"}, 0),
    ],
    ids=["smoothing and span refinement", "free refinement", "resnet", "superglobal", "vit"],
)
def test_the_program_equals_the_network_at_every_shape(model, learned, tmp_path):
    retriever = small_retriever(learned, 56 if "vit" in model.get("backbone", "") else 64, **model)
    run = program(retriever, tmp_path)
    expected = retriever.describe(PHOTOS)
    shown = network_inputs(retriever, PHOTOS)
    multiple = 14 if "vit" in model.get("backbone", "") else 32
    for batch in ([0], [1], [0, 1, 2, 3, 4], [4, 2, 3]):
        found = run(*padded([shown[row] for row in batch], multiple))
        np.testing.assert_allclose(found, expected[batch], atol=1e-5)
    images, masks = padded(shown[:1], multiple)
    wider = [(0, 0), (0, multiple), (0, 2 * multiple)]
    found = run(np.pad(images, [*wider, (0, 0)]), np.pad(masks, wider))
    np.testing.assert_allclose(found, expected[:1], atol=1e-5)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"pool": "rmac", "stage": "c2"}, "config.model.pool='rmac' cannot be exported .* table of all sizes"),
        (
            {"stage": "c2", "smoothing": SmoothingConfig(enabled=True, control="shuffled")},
            "config.model.smoothing.control='shuffled' cannot be exported",
        ),
    ],
)
def test_a_part_that_needs_numbers_is_named(model, says):
    with pytest.raises(UserError, match=says):
        to_stablehlo(small_retriever(**model))


def test_several_scales_are_no_program():
    retriever = small_retriever(stage="c2")
    config = replace(retriever.config, extract=replace(retriever.config.extract, scales=(1.0, 0.7)))
    with pytest.raises(UserError, match=r"config.extract.scales=\(1.0, 0.7\)"):
        to_stablehlo(replace(retriever, config=config))


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="No such file or directory; `sret export RUN DIR --stablehlo` writes one"):
        StableHLO(tmp_path)
    (tmp_path / FILE).write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="not a program that JAX"):
        StableHLO(tmp_path)
