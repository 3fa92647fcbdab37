"""What a run shows its network: the map of the last stage that stays the same, made once, in place of photographs."""

import dataclasses

import jax
import numpy as np
import pytest

from sret_jax.config import AttentionConfig, Config, DataConfig, ExtractConfig, ModelConfig, SmoothingConfig
from sret_jax.errors import UserError
from sret_jax.extraction import maps
from sret_jax.extraction.descriptors import Extractor
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.training.shown import last_fixed_stage, shown
from tests.support.photos import photo_set

LITE, RESNET, VIT = "efficientnet_lite0", "resnet18", "dinov2_vits14"
PHOTOS = photo_set()


def fixed(backbone, train_from, stage="last", attention=()):
    config = Config(model=ModelConfig(backbone, stage=stage, attention=AttentionConfig(stages=attention)))
    config.train.train_from = train_from
    return last_fixed_stage(config, build_network(config.model, train_from=train_from))


@pytest.mark.parametrize(
    ("backbone", "train_from", "options", "expected"),
    [
        (LITE, "none", {}, "last"),
        (LITE, "last", {}, "c5"),
        (LITE, "c5", {}, "c4"),
        (LITE, "c4", {}, "c3"),
        (LITE, "c2", {}, "c1"),
        (LITE, "none", {"stage": "c4"}, "c4"),
        (LITE, "last", {"stage": "c4"}, "c4"),
        (LITE, "none", {"attention": ("c4", "last")}, "c3"),
        (LITE, "none", {"attention": ("last",)}, "c5"),
        (LITE, "c5", {"attention": ("last",)}, "c4"),
        (LITE, "c4", {"attention": ("c5",)}, "c3"),
        (RESNET, "none", {}, "last"),
        (RESNET, "last", {}, "c4"),  # which is "c5"
        (RESNET, "c5", {}, "c4"),
        (RESNET, "none", {"attention": ("c5",)}, "c4"),
        (VIT, "none", {}, "last"),
        (VIT, "last", {"stage": "c4"}, "c4"),
        (VIT, "none", {"stage": "cls"}, "cls"),
    ],
)
def test_the_last_stage_that_stays_the_same(backbone, train_from, options, expected):
    assert fixed(backbone, train_from, **options) == expected


@pytest.mark.parametrize(
    ("backbone", "train_from", "text"),
    [
        (LITE, "all", r"no map stays the same with config.train.train_from='all' and attention after \(\)"),
        (RESNET, "c1", "no map stays the same with config.train.train_from='c1'"),
        (VIT, "c4", "no map stays the same with config.train.train_from='c4'"),
        (VIT, "c5", "dinov2_vits14 cannot go on from the map of 'c4', the last that stays the same"),
        (VIT, "last", "dinov2_vits14 cannot go on from the map of 'c5'"),  # whose blocks train, too
    ],
)
def test_where_no_map_will_do_the_field_is_named(backbone, train_from, text):
    with pytest.raises(UserError, match=rf"config.train.on_maps: {text}.*config.train.on_maps=False"):
        fixed(backbone, train_from)


def small(train_from="c2", **model):
    """Photographs of several shapes, more than two batches and less than three, of which the last is not full."""
    config = Config(
        data=DataConfig(image_size=64, threads=1, instances_per_batch=2, photos_per_instance=4),
        model=ModelConfig(**{"weights": "none", "stage": "c2", "whitening_dim": 8, "whitening_init": "random"} | model),
        extract=ExtractConfig(batch_size=4),
    )
    config.train.on_maps, config.train.train_from = True, train_from
    network = build_network(config.model, train_from=train_from)
    return config, network, init_network(network, config.model, jax.random.key(0))


@pytest.fixture
def made(monkeypatch):
    """How many photographs maps were made of so far."""
    counts, records = [], maps._records

    def counted(*args):
        counts.append(len(args[-1]))
        return records(*args)

    monkeypatch.setattr(maps, "_records", counted)
    return counts


@pytest.mark.parametrize(("train_from", "given"), [("none", "c2"), ("c2", "c1")])
def test_maps_give_the_descriptors_of_the_photographs_in_their_order(tmp_path, train_from, given):
    config, network, variables = small(train_from, smoothing=SmoothingConfig(enabled=True, start="average"))
    seen = shown(config, network, variables, PHOTOS, tmp_path)
    assert seen.given == given and len(seen.maps) == len(PHOTOS) == 11
    expected = Extractor(network, variables, config).describe(PHOTOS, range(11))
    described = seen.describe(network, variables)
    assert described.dtype == np.float32 and described.shape == (11, 8)
    np.testing.assert_allclose(described, expected, atol=2e-3)
    apart = np.linalg.norm(described[:, None] - expected[None], axis=2)
    np.testing.assert_array_equal(apart.argmin(1), range(11))


def test_maps_are_made_once_and_shared_by_networks_that_differ_behind_them(tmp_path, made):
    config, network, variables = small()
    first = shown(config, network, variables, PHOTOS, tmp_path)
    assert made == [11]
    heads = dataclasses.replace(config.model, smoothing=SmoothingConfig(enabled=True), pool="mac", whitening=False)
    other = dataclasses.replace(config, model=heads, train=dataclasses.replace(config.train, learning_rate=0.5))
    again = build_network(heads, train_from="c2", batch_stats="updated")
    same = shown(other, again, init_network(again, heads, jax.random.key(0)), PHOTOS, tmp_path)
    assert made == [11]
    for ours, theirs in zip(first.maps(np.arange(11)), same.maps(np.arange(11)), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    few = PHOTOS.select(range(5))
    shown(config, network, variables, few, tmp_path)
    smaller = dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=32))
    shown(smaller, network, variables, PHOTOS, tmp_path)
    assert made == [11, 5, 11]
    changed = jax.tree.map(lambda x: x * 1.01, variables)
    shown(config, network, changed, PHOTOS, tmp_path)
    assert made == [11, 5, 11, 11]


def test_batches_hold_views_of_the_maps(tmp_path):
    config, network, variables = small()
    config.data = dataclasses.replace(config.data, crop_area=(1.0, 1.0), flip=0.0)
    seen = shown(config, network, variables, PHOTOS, tmp_path)
    batch = next(seen.batches(network))
    for ours, stored in zip((batch["image"], batch["mask"]), seen.maps.as_stored(batch["row"]), strict=True):
        np.testing.assert_array_equal(ours, stored)
    np.testing.assert_array_equal(batch["label"], PHOTOS.labels[batch["row"]])


def test_without_maps_and_at_several_scales_photographs_are_described(tmp_path, made):
    config, network, variables = small()
    scales = dataclasses.replace(config, extract=dataclasses.replace(config.extract, scales=(1.0, 0.5)))
    plain = dataclasses.replace(config, train=dataclasses.replace(config.train, on_maps=False))
    none = shown(plain, network, variables, PHOTOS, tmp_path)
    assert none.maps is None and none.given == "" and not made
    seen = dataclasses.replace(shown(config, network, variables, PHOTOS, tmp_path), config=scales)
    for one in (none, seen):
        expected = Extractor(network, variables, one.config).describe(PHOTOS, range(11))
        np.testing.assert_array_equal(one.describe(network, variables), expected)
    assert next(none.batches(network))["image"].dtype == np.uint8
