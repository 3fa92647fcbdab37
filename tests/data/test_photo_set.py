"""Labelled sets become one, in which every photograph keeps its pixels and every instance its source."""

import dataclasses

import numpy as np
import pytest

from sret_jax.data.photo_set import joined, named_sources, with_distractors
from tests.support.photos import make_photos, photo_set

ONE, TWO = make_photos([2, 1, 3]), photo_set(5)


def test_joined_sets_keep_names_labels_and_pixels_together():
    both = joined([ONE, TWO], ["b", "a"])  # instances are sorted, and photographs in the order of the sets
    assert both.instances == ["a/arch", "a/bridge", "b/0", "b/1", "b/2"]
    assert both.sources == ["a", "a", "b", "b", "b"] and both.labels.dtype == np.int32
    for row in range(len(both)):
        prefix, part, at = ("b", ONE, row) if row < len(ONE) else ("a", TWO, row - len(ONE))
        assert both.names[row] == f"{prefix}/{part.names[at]}" and both.digests[row] == part.digests[at]
        assert both.instances[both.labels[row]] == f"{prefix}/{part.instances[part.labels[at]]}"
        np.testing.assert_array_equal(both.photo(row), part.photo(at))
        assert tuple(both.sizes[row]) == tuple(part.sizes[at])


def test_equal_names_of_two_sets_stay_apart():
    both = joined([TWO, TWO], ["x", "y"])
    assert both.instances == ["x/arch", "x/bridge", "y/arch", "y/bridge"] and len(set(both.names)) == len(both) == 10
    assert not set(both.labels[:5]) & set(both.labels[5:])


def test_sources_of_a_set_are_kept_below_its_prefix():
    own = dataclasses.replace(TWO, sources=["shop", "museum"])
    assert joined([own, ONE], ["x", "y"]).sources == ["x/shop", "x/museum", "y", "y", "y"]


def test_photographs_without_an_instance_and_skipped_files_are_joined_too():
    loose = dataclasses.replace(TWO, labels=np.full(5, -1, np.int32), instances=[], skipped=[("a.txt", "text")])
    both = joined([loose, ONE], ["x", "y"])
    assert both.labels.tolist() == [-1] * 5 + ONE.labels.tolist() and both.skipped == [("x/a.txt", "text")]


def test_sets_that_cannot_be_joined_are_refused():
    with pytest.raises(ValueError, match="a prefix of its own"):
        joined([ONE, TWO], ["x", "x"])
    with pytest.raises(ValueError, match="boxes or pairs"):
        joined([ONE, dataclasses.replace(TWO, pairs=np.array([[0, 2]]))], ["x", "y"])


def test_a_selection_keeps_the_source_of_every_instance():
    both = joined([ONE, TWO], ["x", "y"])
    some = both.select([7, 5, 1])
    assert some.instances == ["x/0", "x/2", "y/arch"] and some.sources == ["x", "x", "y"]
    assert some.select([0]).sources == ["y"] and ONE.select([0]).sources is None
    assert both.select_instances(["y/bridge"]).sources == ["y"]
    assert with_distractors(both, [TWO]).sources == both.sources


def test_sources_say_nothing_of_the_content():
    assert dataclasses.replace(TWO, sources=["a", "b"]).fingerprint == TWO.fingerprint


def test_every_instance_has_its_source():
    with pytest.raises(ValueError, match="1 sources of 2 instances"):
        dataclasses.replace(TWO, sources=["a"])


@pytest.mark.parametrize(
    ("instances", "sources"),
    [
        (["a__1", "a__2", "b__1"], ["a", "a", "b"]),
        (["a__1__x", "b__1"], ["a", "b"]),
        (["a__1", "a__2"], None),  # one source
        (["a__1", "b"], None),  # one without
        (["a__1", "__b"], None),
        (["a_1", "b_1"], None),
        ([], None),
    ],
)
def test_sources_are_named_before_two_underscores_in_every_instance(instances, sources):
    assert named_sources(instances) == sources
