"""The selection of local features against a sorted list, resizing against torch, and what padding may not change."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.extraction.multiscale import resize_input
from sret_jax.extraction.selection import extract_local, select_local

SCALES = (2.0, 1.0, 0.5)
RESIZE = jax.jit(partial(resize_input, recomputed=True), static_argnums=(2, 3))


def select(*given):
    return jax.device_get(select_local(*given))


def maps(seed=0, b=2, c=5, shapes=((6, 8), (4, 4), (2, 3)), contents=((5, 6), (3, 4), (2, 2))):
    """Photograph 0 fills the upper left corner of its maps, the others all of theirs."""
    rng = np.random.default_rng(seed)
    out = []
    for shape, content in zip(shapes, contents, strict=True):
        mask = np.ones((b, *shape), bool)
        mask[0, content[0] :] = mask[0, :, content[1] :] = False
        strength = rng.random((b, *shape)).astype(np.float32)
        features = rng.normal(size=(b, *shape, c)).astype(np.float32)
        out.append({"features": features, "strength": strength, "mask": mask})
    return out


def selected_in_loops(maps, photo, most):
    every = []
    for scale, one in zip(SCALES, maps, strict=True):
        mask = one["mask"][photo]
        height, width = mask.any(1).sum(), mask.any(0).sum()
        for y, x in np.argwhere(mask):
            place = ((x + 0.5) / width, (y + 0.5) / height)
            every.append((one["strength"][photo, y, x], one["features"][photo, y, x], place, scale))
    every.sort(key=lambda entry: -entry[0])
    return every[:most], max(entry[0] for entry in every)


@pytest.mark.parametrize("most", [7, 52, 200])  # some of them, all of the first photograph, more than there are
def test_selection_equals_a_sorted_list(most):
    given = maps()
    ours = select(given, SCALES, most)
    assert ours.features.shape == (2, most, 5)
    for photo in range(2):
        expected, greatest = selected_in_loops(given, photo, most)
        count = len(expected)
        assert ours.counts[photo] == count
        strengths, features, places, scales = (np.array(z) for z in zip(*expected, strict=True))
        np.testing.assert_allclose(ours.strength[photo, :count], strengths / greatest, rtol=1e-6)
        np.testing.assert_array_equal(ours.features[photo, :count], features)
        np.testing.assert_allclose(ours.position[photo, :count], places, rtol=1e-6)
        np.testing.assert_array_equal(ours.scale[photo, :count], scales)
        assert not any(z[photo, count:].any() for z in ours[:-1])


def test_equal_strengths_come_in_order():
    given = [one | {"strength": np.ones_like(one["strength"])} for one in maps()]
    ours = select(given, SCALES, 60)
    expected = np.concatenate([one["features"][1].reshape(-1, 5) for one in given])[:60]
    np.testing.assert_array_equal(ours.features[1], expected)


def test_a_photograph_without_positions_has_no_features():
    given = [one | {"mask": one["mask"] & (np.arange(2) == 1)[:, None, None]} for one in maps()]
    ours = select(given, SCALES, 7)
    assert ours.counts.tolist() == [0, 7]
    assert all(np.isfinite(z).all() for z in ours) and not any(z[0].any() for z in ours)


def padded_photos(seed=0):
    rng = np.random.default_rng(seed)
    images, mask = np.zeros((2, 24, 32, 3), np.uint8), np.zeros((2, 24, 32), bool)
    for i, (h, w) in enumerate([(24, 32), (17, 23)]):
        images[i, :h, :w], mask[i, :h, :w] = rng.integers(0, 256, (h, w, 3)), True
    return images, mask


@pytest.mark.parity
@pytest.mark.parametrize("scale", [2.0, 1.414, 1.0, 0.353])
def test_rescaling_equals_torch(scale):
    torch = pytest.importorskip("torch")
    images, mask = padded_photos()
    ours, inside = jax.device_get(RESIZE(images, mask, scale, 8))
    assert all(side % 8 == 0 for side in ours.shape[1:3])
    for i, (h, w) in enumerate([(24, 32), (17, 23)]):
        alone = torch.from_numpy(images[i, :h, :w].astype(np.float32)).permute(2, 0, 1)[None]
        expected = torch.nn.functional.interpolate(
            alone, scale_factor=scale, mode="bilinear", align_corners=False, recompute_scale_factor=True
        )[0].permute(1, 2, 0)
        h2, w2 = expected.shape[:2]
        assert inside[i].sum() == h2 * w2 and inside[i, :h2, :w2].all()
        np.testing.assert_allclose(ours[i, :h2, :w2], expected, atol=1e-3)  # of 255
        assert not ours[i][~inside[i]].any()


@partial(jax.jit, static_argnums=2)
def pixels(images, mask, scale=1):
    """Maps whose local features are the pixels, and their sum the strength."""
    if scale != 1:
        images, mask = RESIZE(images, mask, scale, 8)
    x = images.astype(jnp.float32)
    return {"features": x, "strength": x.sum(-1), "mask": mask}


def test_extraction_selects_over_all_scales_and_leaves_padding_out():
    images, mask = padded_photos()
    batch = {"image": images, "mask": mask, "row": np.array([5, -1])}
    alone = {"image": images[1:, :24, :24], "mask": mask[1:, :24, :24], "row": np.array([7])}
    found = dict(extract_local(pixels, [batch, alone], scales=(2.0, 0.5), most=2000))
    assert sorted(found) == [5, 7]
    together = select([pixels(images, mask, scale) for scale in (2.0, 0.5)], (2.0, 0.5), 2000)
    for i, row in ((0, 5), (1, 7)):
        for ours, expected in zip(found[row], together, strict=True):
            np.testing.assert_allclose(ours, expected[i], rtol=1e-5, atol=1e-5)
    assert found[7].counts == 34 * 46 + 8 * 11
