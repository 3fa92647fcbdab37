"""A run on photographs as people have them: several folders, and none that is sorted."""

import jax
import numpy as np
import pytest

from sret_jax.training import loop
from tests.support.photos import write_photo
from tests.support.tiny_training import Killed, config, make_tiny


@pytest.fixture
def tiny(monkeypatch):
    prepare = loop.prepare_photos
    run = make_tiny(monkeypatch)
    monkeypatch.setattr(loop, "prepare_photos", prepare)
    return run


def test_a_run_on_unsorted_photographs_of_two_folders_resumes_to_the_same_bits(tiny, tmp_path):
    for seed, name in enumerate(("one/a.jpg", "one/deep/b.jpg", "two/a.jpg", "two/c.jpg", "two/d.jpg")):
        write_photo(tmp_path / name, seed)
    settings = config(steps=2, accumulate=1)
    settings.data.dataset, settings.data.sampling, settings.data.source_balance = "photos", "instances", 0.5
    settings.data.root, settings.data.cache_dir = f"{tmp_path}/one,{tmp_path}/two", str(tmp_path / "cache")
    settings.data.instances_per_batch, settings.data.photos_per_instance = 4, 2
    whole = tiny(settings, tmp_path / "whole")
    with pytest.raises(Killed):
        tiny(settings, tmp_path / "killed", 1)
    jax.tree.map(np.testing.assert_array_equal, whole, tiny(settings, tmp_path / "killed"))
