"""Batches are a function of the seed and the step; every photograph is described once, in its bucket."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from sret_jax.config import DataConfig
from sret_jax.data import pipeline
from sret_jax.data.pipeline import evaluation_batches, training_batches
from sret_jax.data.resizing import bucket_shapes, choose_bucket, content_size
from sret_jax.data.sampling import InstancePlan, make_plan
from sret_jax.errors import UserError
from tests.support.photos import Encoded, make_photos

CONFIG = DataConfig(image_size=40, instances_per_batch=4, photos_per_instance=3, threads=2)
PHOTOS = make_photos([5, 2, 3, 1, 7, 4, 2])


def batches(photos=PHOTOS, config=CONFIG, seed=0, **sharding):
    return training_batches(photos, config, seed=seed, size_multiple=8, **sharding)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def test_a_batch_holds_p_distinct_instances_of_k_photos():
    iterator = batches()
    for _ in range(20):
        batch = next(iterator)
        assert batch["image"].shape == (12, 40, 40, 3) and batch["image"].dtype == np.uint8
        assert batch["mask"].shape == (12, 40, 40) and batch["mask"].dtype == bool
        assert batch["label"].dtype == np.int32 and batch["row"].dtype == np.int32
        groups = batch["label"].reshape(4, 3)
        assert (groups == groups[:, :1]).all() and len(set(groups[:, 0])) == 4
        assert 3 not in groups  # one photograph makes no pair
        np.testing.assert_array_equal(PHOTOS.labels[batch["row"]], batch["label"])
        for own in batch["row"].reshape(4, 3):  # an instance of two repeats one, larger ones repeat none
            assert len(set(own)) == min(3, np.sum(PHOTOS.labels == PHOTOS.labels[own[0]]))


def test_the_image_is_the_photograph_of_its_row_inside_its_mask():
    plain = dataclasses.replace(CONFIG, crop_area=(1.0, 1.0), flip=0.0, colour=0.0, jpeg=0.0)
    batch = next(batches(config=plain))
    for image, mask, label, row in zip(*(batch[key] for key in ("image", "mask", "label", "row")), strict=True):
        assert (image[mask] == (20 * label, row, 7)).all() and not image[~mask].any()
        h, w = content_size(tuple(PHOTOS.sizes[row]), 40, 8)
        assert mask[:h, :w].all() and mask.sum() == h * w


def stored_maps(rows):
    """Maps of 5 x 5 whose channels are the row, the position's row and its column; 3 or 4 columns are photograph."""
    maps, mask = np.zeros((len(rows), 5, 5, 3), np.float16), np.zeros((len(rows), 5, 5), bool)
    for n, row in enumerate(rows):
        h, w = 4, 3 + int(row) % 2
        maps[n, :h, :w] = np.stack([np.full((h, w), row), *np.mgrid[:h, :w]], -1)
        mask[n, :h, :w] = True
    return maps, mask


def test_where_there_are_maps_batches_hold_views_of_those_of_the_same_photographs():
    plain = dataclasses.replace(CONFIG, crop_area=(1.0, 1.0), flip=0.0)
    batch, of_photos = next(batches(config=plain, maps=stored_maps)), next(batches(config=plain))
    np.testing.assert_array_equal(batch["row"], of_photos["row"])
    np.testing.assert_array_equal(batch["label"], of_photos["label"])
    for ours, expected in zip((batch["image"], batch["mask"]), stored_maps(batch["row"]), strict=True):
        np.testing.assert_array_equal(ours, expected)
        assert ours.dtype == expected.dtype
    cropped = batches(config=dataclasses.replace(CONFIG, map_drop=0.2), maps=stored_maps)
    first, state = next(cropped), cropped.get_state()
    for image, mask, row in zip(first["image"], first["mask"], first["row"], strict=True):
        assert mask.any() and (image[mask][:, 0] == row).all() and not image[~mask].any()
    after = next(cropped)
    cropped.set_state(state)
    assert_equal(next(cropped), after)


def test_every_instance_and_photograph_gets_its_turn():
    plan = InstancePlan(PHOTOS, CONFIG, seed=0)
    rows = np.concatenate([plan.rows(number) for number in range(400)])
    counts = np.bincount(rows, minlength=len(PHOTOS))
    assert counts[10] == 0 and (np.delete(counts, 10) > 0).all()  # row 10 is the only one of its instance
    per_instance = np.bincount(PHOTOS.labels[rows])[[0, 1, 2, 4, 5, 6]]
    assert per_instance.min() > 0.85 * per_instance.mean()


def sampled(sampling, number, photos=PHOTOS):
    plan = make_plan(photos, dataclasses.replace(CONFIG, sampling=sampling), seed=3)
    assert plan.size == 12
    return plan.rows(number)


def test_balanced_batches_draw_every_instance_equally_often():
    rows = np.concatenate([sampled("balanced", number) for number in range(300)])
    per_instance = np.bincount(PHOTOS.labels[rows])
    assert len(per_instance) == 7 and per_instance.min() > 0.85 * per_instance.mean()
    assert set(rows) == set(range(len(PHOTOS)))  # those alone of their instance too


def test_random_batches_go_through_all_labelled_photographs_before_any_comes_again():
    photos = dataclasses.replace(PHOTOS, labels=np.where(np.arange(len(PHOTOS)) < 3, -1, PHOTOS.labels))
    rows = np.concatenate([sampled("random", number, photos) for number in range(7)]).reshape(4, 21)
    assert all(sorted(turn) == list(range(3, 24)) for turn in rows)
    assert (rows[0] != rows[1]).any()
    np.testing.assert_array_equal(rows.reshape(7, 12)[5], sampled("random", 5, photos))


@pytest.mark.parametrize("sampling", ["instances", "balanced", "random"])
def test_photographs_without_an_instance_cannot_be_sampled(sampling):
    photos = dataclasses.replace(PHOTOS, labels=np.full(len(PHOTOS), -1))
    with pytest.raises(UserError, match=r"none of the 24 photographs of .* <instance>/<photo>"):
        sampled(sampling, 0, photos)


@pytest.mark.parametrize("sampling", ["balanced", "random"])
def test_every_sampling_is_shared_by_the_processes(sampling):
    config = dataclasses.replace(CONFIG, sampling=sampling)
    parts = [next(batches(config=config, process_index=i, process_count=3)) for i in range(3)]
    assert_equal(next(batches(config=config)), {key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
    with pytest.raises(UserError, match="12 photographs does not divide over 5 processes"):
        batches(config=config, process_count=5)


def test_repeated_photographs_are_augmented_differently():
    batch = next(batches(make_photos([2, 2, 2, 2])))
    rows = batch["row"].reshape(4, 3)
    for group, own in enumerate(rows):
        first, again = [3 * group + at for at in np.flatnonzero(own == own[0])]
        assert (batch["image"][first] != batch["image"][again]).any()


SINGLES = dataclasses.replace(CONFIG, singles=True, photos_per_instance=4)
QUIET = {"crop_area": (1.0, 1.0), "flip": 0.0, "colour": 0.0, "jpeg": 0.0}


def test_views_of_a_photograph_of_its_own_all_differ_and_are_of_it():
    """Also where nothing but the strong views can make them differ; the first is a view as any other."""
    photos = make_photos([1, 1, 1, 1, 1])
    batch = next(batches(photos, dataclasses.replace(SINGLES, **QUIET)))
    for group in range(4):
        own = slice(4 * group, 4 * group + 4)
        row = batch["row"][own][0]
        assert (batch["row"][own] == row).all() and (batch["label"][own] == photos.labels[row]).all()
        images = batch["image"][own]
        first, size = images[0], content_size(tuple(photos.sizes[row]), 40, 8)
        assert (first[: size[0], : size[1]] == (20 * photos.labels[row], row, 7)).all()
        assert all((images[i] != images[j]).any() for i in range(4) for j in range(i))


def test_the_mask_of_a_strong_view_is_where_it_is():
    photos = make_photos([1, 1, 1, 1, 1])
    bright = dataclasses.replace(photos, source=Encoded([np.maximum(photo, 60) for photo in photos.source.photos]))
    for crop_area in ((1.0, 1.0), (0.4, 0.9)):
        batch = next(batches(bright, dataclasses.replace(SINGLES, crop_area=crop_area)))
        for image, mask, row in zip(*(batch[key] for key in ("image", "mask", "row")), strict=True):
            h, w = int(mask.any(1).sum()), int(mask.any(0).sum())
            assert mask[:h, :w].all() and mask.sum() == h * w and max(h, w) == 40 and h % 8 == w % 8 == 0
            tall, wide = content_size(tuple(bright.sizes[row]), 40, 8)
            assert max(abs(h - tall), abs(w - wide)) <= (0 if crop_area[0] == 1 else 8)
            assert not image[~mask].any() and np.mean(image[mask].max(-1) > 0) > 0.99


def test_what_is_not_repeated_is_shown_as_it_always_was():
    photos = make_photos([4, 2, 5, 6])
    with_singles, without = (next(batches(photos, dataclasses.replace(SINGLES, singles=on))) for on in (True, False))
    np.testing.assert_array_equal(with_singles["row"], without["row"])
    again = [row in without["row"][:slot] for slot, row in enumerate(without["row"])]
    same = (with_singles["image"] == without["image"]).all((1, 2, 3))
    assert sum(again) == 2 and (same == ~np.array(again)).all()


def test_views_of_single_photographs_are_shared_by_processes_and_resume():
    photos = make_photos([1, 1, 3, 1, 2])
    whole = batches(photos, SINGLES)
    parts = [batches(photos, SINGLES, process_index=i, process_count=2) for i in range(2)]
    for _ in range(2):
        state, shares = whole.get_state(), [next(part) for part in parts]
        batch = next(whole)
        assert_equal(batch, {key: np.concatenate([share[key] for share in shares]) for key in batch})
        resumed = batches(photos, dataclasses.replace(SINGLES, threads=1))
        resumed.set_state(state)
        assert_equal(next(resumed), batch)


def test_nothing_is_left_out_with_singles(caplog):
    seen = np.concatenate([next(batches(config=SINGLES, numbers=range(i, i + 1)))["row"] for i in range(12)])
    assert 10 in seen and "not trained on" not in caplog.text  # row 10 is the only one of its instance


def test_resuming_at_every_step_equals_never_stopping():
    iterator, states, expected = batches(), [], []
    for _ in range(8):
        states.append(iterator.get_state())
        expected.append(next(iterator))
    for step, state in enumerate(states):
        resumed = batches(config=dataclasses.replace(CONFIG, threads=1 + step % 3))
        if step % 2:
            next(resumed)  # wherever it stood before
        resumed.set_state(state)
        for batch in expected[step:]:
            assert_equal(next(resumed), batch)


def test_seed_and_step_change_everything():
    one, same, other = batches(), batches(), batches(seed=1)
    first, second = next(one), next(one)
    assert_equal(first, next(same))
    assert (first["row"] != second["row"]).any() and (first["row"] != next(other)["row"]).any()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batch_of_one(processes):
    whole = batches()
    parts = [batches(process_index=i, process_count=processes) for i in range(processes)]
    for _ in range(3):
        shares = [next(part) for part in parts]
        assert all(len(share["row"]) == 12 // processes for share in shares)
        assert_equal(next(whole), {key: np.concatenate([share[key] for share in shares]) for key in shares[0]})


def test_what_cannot_be_sampled_names_the_field(caplog):
    batches(config=dataclasses.replace(CONFIG, instances_per_batch=7))
    assert "every batch shows all 6 instances, fewer than the " in caplog.text
    with pytest.raises(UserError, match="4 instances, which is not a multiple of the 3 processes"):
        batches(process_count=3)


def test_left_out_instances_are_reported(caplog):
    batches()
    assert "1 instances with one photograph only are not trained on" in caplog.text


def evaluate(rows=None, batch_size=4, photos=PHOTOS):
    return evaluation_batches(
        photos, image_size=40, bucket_ratios=(0.75,), size_multiple=8, batch_size=batch_size, rows=rows, threads=2
    )


@pytest.mark.parametrize("most", [None, 1.0, 0.5])
def test_a_photograph_is_enlarged_as_far_as_asked(most):
    """To 80 pixels."""
    found = {}
    for batch in evaluation_batches(
        PHOTOS, image_size=80, bucket_ratios=(), size_multiple=1, batch_size=4, threads=1, enlarged=most
    ):
        sides = np.maximum(batch["mask"].any(1).sum(1), batch["mask"].any(2).sum(1))
        found |= dict(zip(batch["row"].tolist(), sides.tolist(), strict=True))
    for row, longest in enumerate(PHOTOS.sizes.max(1)):
        assert found[row] == (80 if most is None else min(80, round(most * longest)))


def test_photographs_are_shown_as_pillow_shrinks_them():
    """What is in the batch is `PIL.Image.thumbnail` of the photograph, to the last bit."""
    how = {"filter": "thumbnail", "rounding": "aspect", "enlarged": 1.0}
    for batch in evaluation_batches(
        PHOTOS, image_size=21, bucket_ratios=(0.75,), size_multiple=1, batch_size=4, threads=1, **how
    ):
        for image, mask, row in zip(batch["image"], batch["mask"], batch["row"], strict=True):
            if row >= 0:
                theirs = Image.fromarray(PHOTOS.photo(int(row)))
                theirs.thumbnail((21, 21), Image.Resampling.LANCZOS)
                height, width = mask.any(1).sum(), mask.any(0).sum()
                np.testing.assert_array_equal(image[:height, :width], np.asarray(theirs))


@pytest.mark.parametrize("rows", [None, [3, 0, 20, 7, 7], np.arange(5, 15), []])
def test_every_photograph_comes_once_in_its_bucket(rows):
    wanted = list(range(len(PHOTOS))) if rows is None else list(rows)
    buckets = bucket_shapes(40, (0.75,), 8)
    seen, order = [], []
    for batch in evaluate(rows):
        shape = batch["image"].shape[1:3]
        assert batch["image"].shape == (4, *shape, 3) and batch["mask"].shape == (4, *shape)
        assert batch["row"].dtype == np.int32 and shape in buckets
        order.append(shape)
        for image, mask, row in zip(batch["image"], batch["mask"], batch["row"], strict=True):
            if row < 0:
                assert not mask.any() and not image.any()
                continue
            seen.append(int(row))
            content = content_size(tuple(PHOTOS.sizes[row]), 40, 8)
            assert choose_bucket(content, buckets) == shape and mask.sum() == content[0] * content[1]
            assert (image[mask] == (20 * PHOTOS.labels[row], row, 7)).all() and not image[~mask].any()
    assert sorted(seen) == sorted(wanted)
    assert [a for a, b in zip(order, order[1:], strict=False) if a != b] + order[-1:] == list(dict.fromkeys(order))
    if rows is not None and len(wanted):
        by_bucket = sorted(
            range(len(wanted)),
            key=lambda i: (
                buckets.index(choose_bucket(content_size(tuple(PHOTOS.sizes[wanted[i]]), 40, 8), buckets)),
                i,
            ),
        )
        assert seen == [int(wanted[i]) for i in by_bucket]


def test_padding_only_fills_the_last_batch_of_a_bucket():
    empty = [(batch["image"].shape, int((batch["row"] < 0).sum())) for batch in evaluate()]
    for (shape, padding), (following, _) in zip(empty, empty[1:], strict=False):
        assert padding == 0 or following != shape


def test_a_photograph_that_is_damaged_later_is_named():
    class Damaged(Encoded):
        def __getitem__(self, index):
            data = super().__getitem__(index)["image"]
            return {"image": data[:50] if index == 11 else data}

    photos = dataclasses.replace(PHOTOS, source=Damaged(PHOTOS.source.photos))
    with pytest.raises(UserError, match="drawn: photograph '4/11.png' cannot be read.*delete the data cache"):
        for _ in evaluate(photos=photos):
            pass
    with pytest.raises(UserError, match="4/11.png"):
        iterator = batches(photos=photos)
        for _ in range(50):
            next(iterator)


def test_loading_reports_the_error_of_the_reader():
    with pytest.raises(UserError, match="shrunk"):
        pipeline.load(dataclasses.replace(PHOTOS, source=Shrunk(len(PHOTOS))), 0)


class Shrunk(Encoded):
    def __init__(self, length):
        super().__init__([None] * length)

    def __getitem__(self, index):
        raise RuntimeError("record file shrunk")
