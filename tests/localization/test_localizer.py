"""What the methods of localization mark, and what they must not depend on."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sret_jax.config import Config, DataConfig, ExtractConfig, LocalizeConfig, ModelConfig
from sret_jax.config.validation import validate
from sret_jax.data.decoding import encode_jpeg, encode_mask
from sret_jax.data.opening import open_photos
from sret_jax.data.photo_set import PhotoSet
from sret_jax.errors import UserError
from sret_jax.extraction import maps as maps_module
from sret_jax.extraction.local_features import StoredLocal, pack
from sret_jax.extraction.maps import StoredMaps, localizing_network
from sret_jax.extraction.selection import SelectedFeatures
from sret_jax.localization import methods
from sret_jax.localization.localizer import Localizer
from sret_jax.localization.methods import METHODS, check_methods, locate, locate_found
from sret_jax.localization.pixels import upsample
from sret_jax.localization.query_region import directions, mean_direction, region_heat
from sret_jax.models.descriptor import build_network
from sret_jax.reranking.answers import PhotoFeatures
from sret_jax.retriever import Retriever
from sret_jax.storage.row_store import RowStore
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import photo_set

PHOTOS = photo_set()


def local_features(folder, photos: PhotoSet) -> StoredLocal:
    """30 features per photograph, the same in all, at the same places of a grid."""
    features = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    place = np.stack(np.meshgrid(np.linspace(0.1, 0.9, 6), np.linspace(0.1, 0.9, 5)), -1).reshape(30, 2)
    ones = np.ones(30, np.float32)
    one = SelectedFeatures(features, ones, place.astype(np.float32), ones, np.int32(30))
    store = RowStore.resume(folder, photos.names, "key", len(photos))
    if store.missing():
        store.write(0, pack([one] * len(photos)))
    return StoredLocal([store])


def localizer(folder, queries: PhotoSet = PHOTOS, regions=None, photos: PhotoSet = PHOTOS, **settings) -> Localizer:
    config = Config(data=DataConfig(image_size=64, threads=1), extract=ExtractConfig(batch_size=4))
    config.localize = LocalizeConfig(**({"image_size": 64, "query_size": 64, "refine": "none"} | settings))
    config.rerank.trials = 50
    of_queries, of_photos = (
        PhotoFeatures(
            lambda part=part: np.zeros((len(part), 1)), part.regions, lambda: local_features(folder / "local", photos)
        )
        for part in (queries, photos)
    )
    retriever = Retriever(NETWORK, VARIABLES, config)
    return Localizer(retriever, queries, photos, (of_queries, of_photos), folder, regions)


@pytest.fixture(scope="module")
def usual(tmp_path_factory) -> Localizer:
    return localizer(tmp_path_factory.mktemp("maps"))


def with_masks(mask_of) -> PhotoSet:
    records = [dict(PHOTOS.source[i]) | {"mask": encode_mask(mask_of(i))} for i in range(len(PHOTOS))]
    return replace(PHOTOS, source=records)


def test_the_region_is_the_box_else_the_mask_else_everything(tmp_path):
    height, width = PHOTOS.sizes[0].tolist()
    marked = np.zeros((height, width), bool)
    marked[8:24, 16:32] = True
    boxes = np.tile(np.array([16, 8, 32, 24], np.int32), (len(PHOTOS), 1))

    def weights(queries: PhotoSet) -> np.ndarray:
        found = localizer(tmp_path, queries)
        whole, _ = found.maps(np.array([0]))
        assert found.query_map(0)[0].shape == whole[0].shape  # of the whole photograph, box or none
        return np.asarray(found.query_map(0)[2])

    def mask_of(row: int) -> np.ndarray:
        return marked if row == 0 else np.ones(PHOTOS.sizes[row], bool)

    of_mask, of_box = weights(with_masks(mask_of)), weights(replace(PHOTOS, boxes=boxes))
    np.testing.assert_allclose(of_box, of_mask, atol=1e-6)
    assert 0 < of_box.sum() < weights(PHOTOS).sum() == np.asarray(localizer(tmp_path).query_map(0)[1]).sum()


def test_a_requested_region_counts_like_a_box_or_mask_of_the_set(tmp_path):
    height, width = PHOTOS.sizes[0].tolist()
    box, marked = np.array([16, 8, 32, 24]), np.zeros((height, width), bool)
    marked[8:24, 16:32] = True
    requested = [localizer(tmp_path, regions={0: region}) for region in (box, marked)]
    benchmark = localizer(tmp_path, replace(PHOTOS, boxes=np.tile(box.astype(np.int32), (len(PHOTOS), 1))))
    for one in requested:
        np.testing.assert_allclose(one.query_map(0)[2], benchmark.query_map(0)[2], atol=1e-6)
        (own,), (same,) = (locate(each, "discovery", 0, [4]) for each in (one, benchmark))
        np.testing.assert_array_equal(own.mask, same.mask)
        (verified,) = locate(one, "sv", 0, [5])  # the identity carries it: local features are of what is described
        shown = np.zeros((height, width), bool)
        shown[3:, 3:57] = True  # 16 of the 18 pixels of (15, 7, 33, 25), as large as the photograph
        assert (verified.mask & shown).sum() > 0.9 * shown.sum() and verified.mask.sum() < 1.1 * shown.sum()
        region, whole = (np.asarray(one.query_map(query)[2]).sum() for query in (0, 1))
        assert whole > region  # all of query 1 is searched for


def test_nothing_is_marked_where_the_object_is_not_found(tmp_path, monkeypatch):
    found = localizer(tmp_path, regions={0: np.array([16, 8, 32, 24])})
    rows = [0, 4, 5]
    raw, present = locate(found, "discovery", 0, rows), found.presence(0, rows)
    assert present.shape == (3,) and np.argmax(present) == 0  # the photograph itself
    monkeypatch.setattr(methods, "FOUND", float(np.sort(present)[-2:].mean()))
    marked = locate_found(found, "discovery", 0, rows)
    np.testing.assert_array_equal(marked[0].mask, raw[0].mask)
    assert raw[1].mask.any() and not marked[1].mask.any() and not marked[2].mask.any()
    np.testing.assert_array_equal(marked[1].heat, raw[1].heat)
    verified = locate(found, "sv", 0, rows)
    assert verified[2].mask.any()  # a transform was found
    for method in ("sv", "sv+discovery"):
        np.testing.assert_array_equal(locate_found(found, method, 0, rows)[2].mask, verified[2].mask)


@pytest.mark.parametrize("method", METHODS)
def test_a_click_is_searched_for_by_every_method(tmp_path, method):
    height, width = PHOTOS.sizes[0].tolist()
    click = np.array([width - 1.0, height - 1.0])
    found = localizer(tmp_path, regions={0: click})
    weights = np.asarray(found.query_map(0)[2])
    assert weights.sum() == weights.max() == 1
    for row, one in zip([5, 6], locate(found, method, 0, [5, 6]), strict=True):
        assert one.mask.shape == tuple(PHOTOS.sizes[row])


def test_the_seed_of_lost_lies_in_what_it_grew_to(usual):
    for one in locate(usual, "lost", 0, range(len(PHOTOS))):
        x, y = one.seed
        assert one.mask[int(y), int(x)] and one.heat.shape == one.mask.shape and np.isfinite(one.heat).all()


def test_keys_of_a_transformer_are_taken_as_they_are(tmp_path, monkeypatch):
    for stage, possible in {"c4": False, "last": True, "keys": True, "cls": True}.items():
        network = build_network(ModelConfig(backbone="dinov2_vits14", weights="none", stage=stage))
        config = Config(model=ModelConfig(backbone="dinov2_vits14"), localize=LocalizeConfig(source="keys"))
        if possible:
            assert localizing_network(network, config).stage == "keys"
        else:
            with pytest.raises(UserError, match="source='keys': this network has map, backbone, c4"):
                localizing_network(network, config)
    found = localizer(tmp_path)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, 7)) + 0.1, jnp.float32)
    mask = jnp.ones((2, 5, 6), bool)
    monkeypatch.setattr(found, "photo_maps", lambda rows: (x[jnp.asarray(rows)], mask[jnp.asarray(rows)]))
    assert np.abs(found.signed(x, mask).sum((1, 2))).max() < 1e-3 < np.abs(x.sum((1, 2))).min()
    centred = [one.mask for one in locate(found, "lost", 0, range(2))]
    monkeypatch.setattr(found, "_stage", "keys")
    np.testing.assert_array_equal(found.signed(x, mask), x)
    as_they_are = locate(found, "lost", 0, range(2))
    assert any((one.mask != other).any() for one, other in zip(as_they_are, centred, strict=True))


@pytest.mark.parametrize("refine", ["none", "guided", "grabcut"])
def test_photographs_without_any_contrast_are_marked_soundly(tmp_path, monkeypatch, refine):
    """Constant maps, so that nothing is like or unlike anything; masks are empty or sound, heat is finite."""
    found = localizer(tmp_path, refine=refine)
    x, mask = found.maps(np.arange(len(PHOTOS)))
    for value in (0.0, 1.0):
        flat = jnp.full(x.shape, value, jnp.float32)
        monkeypatch.setattr(
            found, "photo_maps", lambda rows, flat=flat: (flat[jnp.asarray(rows)], jnp.asarray(mask[rows]))
        )
        for method in set(METHODS) - {"sv", "everything"}:
            for row, one in zip([1, 2], locate(found, method, 0, [1, 2]), strict=True):
                assert one.mask.shape == tuple(PHOTOS.sizes[row]) and one.mask.dtype == bool
                assert one.heat is None or np.isfinite(one.heat).all()
        assert not locate(found, "discovery", 0, [1])[0].mask.any()


@pytest.mark.parametrize("method", METHODS)
def test_batches_and_the_order_of_photographs_do_not_matter(usual, method):
    rows = [7, 2, 10, 0, 1, 3, 4, 5, 6, 9]  # a whole batch and two left over
    together = locate(usual, method, 1, rows)
    for row, one in zip(rows[:2] + rows[-1:], together[:2] + together[-1:], strict=True):
        (alone,) = locate(usual, method, 1, [row])
        assert one.mask.shape == tuple(PHOTOS.sizes[row])
        np.testing.assert_array_equal(one.mask, alone.mask)
    np.testing.assert_array_equal(locate(usual, method, 1, rows[::-1])[-1].mask, together[0].mask)


def test_lost_of_a_query_grows_from_its_region(tmp_path):
    boxes = np.tile(np.array([16, 8, 32, 24], np.int32), (len(PHOTOS), 1))
    boxed = localizer(tmp_path, replace(PHOTOS, boxes=boxes))
    (itself,) = locate(boxed, "query_lost", 0, [0])
    x, y = itself.seed
    assert 16 <= x < 32 and 8 <= y < 24 and itself.mask[int(y), int(x)]
    assert not np.array_equal(itself.mask, locate(boxed, "lost", 0, [0])[0].mask)


def test_lost_is_as_published_and_only_lost_inwards_turns_what_covers_the_border(tmp_path, monkeypatch):
    found = localizer(tmp_path)
    inside = np.zeros((8, 8), bool)
    inside[1:-1, 1:-1] = True  # more patches than the border has, so that LOST's seed is on the border
    x, mask = np.where(inside[None, ..., None], 1.0, -1.0) * np.array([1.0, 2.0, 0.5]), np.ones((1, 8, 8), bool)
    maps = jnp.asarray(x, jnp.float32), jnp.asarray(mask)
    monkeypatch.setattr(found, "photo_maps", lambda rows: maps)
    for method, expected in {"lost": ~inside, "lost_inwards": inside}.items():
        (one,) = locate(found, method, 0, [0])
        shown = upsample(expected.astype(np.float32), mask[0], found.size(0)) > 0.5
        np.testing.assert_array_equal(one.mask, shown)


def test_with_its_own_seed_a_query_that_is_searched_itself_is_marked_as_lost_marks_it(tmp_path, monkeypatch):
    found = localizer(tmp_path)
    monkeypatch.setattr(found, "_stage", "keys")  # the same features in both, whatever the collection is
    for query in (0, 3):
        (own,), (published,) = (locate(found, method, query, [query]) for method in ("seed_lost", "lost"))
        np.testing.assert_array_equal(own.mask, published.mask)
        np.testing.assert_array_equal(own.heat, published.heat)


def test_the_own_seed_of_a_query_does_not_depend_on_its_region(tmp_path):
    whole, clicked = localizer(tmp_path), localizer(tmp_path, regions={0: np.array([3.0, 3.0])})
    rows = [4, 5, 6]
    pairs = zip(locate(whole, "seed_lost", 0, rows), locate(clicked, "seed_lost", 0, rows), strict=True)
    assert all((one.mask == other.mask).all() and one.seed == other.seed for one, other in pairs)


def test_queries_alternate(usual):
    first, second = (locate(usual, "discovery", query, [4])[0].heat for query in (0, 1))
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(locate(usual, "discovery", 0, [4])[0].heat, first)


def test_discovery_is_the_heat_of_the_stored_maps(usual):
    x, mask = (jnp.asarray(part) for part in usual.maps(np.arange(len(PHOTOS))))
    own = [mean_direction(x[i : i + 1], mask[i : i + 1]) for i in range(len(PHOTOS))]
    mean = np.mean(own, axis=0)
    np.testing.assert_allclose(usual.mean, mean, atol=1e-5)
    heat = np.asarray(region_heat(x[1], mask[1].astype(jnp.float32), x[4:5], mask[4:5], jnp.asarray(mean)))[0]
    (found,) = locate(usual, "discovery", 1, [4])
    rows, columns = (int(np.asarray(mask[4]).any(axis).sum()) for axis in (1, 0))
    where = np.unravel_index(np.argmax(heat), heat.shape)
    at = np.unravel_index(np.argmax(found.heat), found.heat.shape)
    size = np.array(found.heat.shape)
    assert np.abs((np.array(where) + 0.5) / [rows, columns] - (np.array(at) + 0.5) / size).max() < 0.1
    assert found.heat[~found.mask].min() < found.heat[found.mask].mean()
    assert np.isfinite(np.asarray(directions(x))).all()


def test_every_mark_has_the_size_of_its_photograph(usual):
    for method in METHODS:
        for row, one in zip([1, 2], locate(usual, method, 0, [1, 2]), strict=True):
            assert one.mask.shape == tuple(PHOTOS.sizes[row]) and one.mask.dtype == bool
    assert all(one.mask.all() for one in locate(usual, "everything", 0, [1, 2]))


def test_verified_photographs_show_the_region_and_others_what_discovery_finds(usual, tmp_path):
    (verified,) = locate(usual, "sv", 0, [5])  # of the query's shape, its features at the same places: the identity
    assert PHOTOS.sizes[0].tolist() == PHOTOS.sizes[5].tolist() and verified.mask.mean() > 0.98
    np.testing.assert_array_equal(locate(usual, "sv+discovery", 0, [5])[0].mask, verified.mask)
    strict = localizer(tmp_path, inliers=31)  # more than there are
    rows = [5, 6]
    assert not any(one.mask.any() for one in locate(strict, "sv", 0, rows))
    both, discovered = (locate(strict, method, 0, rows) for method in ("sv+discovery", "discovery"))
    for one, other in zip(both, discovered, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)


@pytest.mark.parametrize("refine", ["guided", "grabcut"])
def test_refined_masks_have_the_size_of_their_photographs(tmp_path, refine):
    found = locate(localizer(tmp_path, refine=refine), "discovery", 0, range(9))
    assert [one.mask.shape for one in found] == [one.heat.shape for one in found]
    assert [one.mask.shape for one in found] == [tuple(size) for size in PHOTOS.sizes[:9].tolist()]
    assert all(one.mask.any() and np.isfinite(one.heat).all() for one in found)


STRIPS = [(60, 4000), (4000, 60), (16, 4000), (4000, 16), (16, 16), (300, 400)]


@pytest.fixture(scope="module")
def strips() -> PhotoSet:
    """JPEGs from which the decoder may make smaller ones, the thinnest of two pixels."""
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)) for _ in STRIPS]
    drawn = [encode_jpeg(np.asarray(x.resize(size[::-1])), 90) for x, size in zip(small, STRIPS, strict=True)]
    return open_photos(drawn)


@pytest.mark.parametrize("refine", ["none", "guided", "grabcut"])
def test_the_thinnest_photographs_are_localized_in(tmp_path, strips, refine):
    rows = [0, 1, 2, 3, 4, 5, 0, 1]  # a batch
    found = localizer(tmp_path, strips, photos=strips, refine=refine)
    for method in METHODS if refine == "none" else ("discovery",):
        for query in (2, 5):  # a strip too
            for row, one in zip(rows, locate(found, method, query, rows), strict=True):
                assert one.mask.shape == STRIPS[row] and (one.heat is None or np.isfinite(one.heat).all())
                assert method != "discovery" or one.mask.any()


def test_a_region_of_one_pixel_is_searched_for(tmp_path, strips):
    thin = {0: [0, 10, 4000, 11], 3: [15, 0, 16, 4000], 5: [7, 7, 8, 8]}
    found = localizer(tmp_path, strips, {row: np.array(box) for row, box in thin.items()}, strips, refine="grabcut")
    for query in thin:
        weights = np.asarray(found.query_map(query)[2])
        assert weights.sum() > 0 and np.isfinite(weights).all()
        for method in ("discovery", "regions", "query_lost", "dense", "sv"):
            (one,) = locate(found, method, query, [1])
            assert one.mask.shape == STRIPS[1] and (one.heat is None or np.isfinite(one.heat).all())


def test_maps_are_made_once(tmp_path, monkeypatch):
    first = locate(localizer(tmp_path), "discovery", 0, [3])[0]

    def never(*_):
        raise AssertionError("maps were made again")

    monkeypatch.setattr(maps_module, "_records", never)
    again = localizer(tmp_path)
    assert isinstance(again.maps, StoredMaps)
    np.testing.assert_array_equal(locate(again, "discovery", 0, [3])[0].heat, first.heat)
    with pytest.raises(AssertionError, match="made again"):
        locate(localizer(tmp_path, image_size=48), "discovery", 0, [3])


def test_wrong_settings_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no method 'magic'; choose one of everything"):
        check_methods(("discovery", "magic"))
    with pytest.raises(UserError, match="localize.refine='crf': choose one of none, guided, grabcut"):
        validate(Config(localize=LocalizeConfig(refine="crf")))
    with pytest.raises(UserError, match="source='c9': choose one of map, backbone, c1"):
        localizer(tmp_path, source="c9")
    with pytest.raises(UserError, match="source='keys': this network has"):
        localizer(tmp_path, source="keys")
