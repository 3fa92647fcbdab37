"""A collection that was described in parts is the one that one process makes."""

import dataclasses
import os
import shutil

import jax
import numpy as np
import pytest
from skimage import data

from sret_jax.collection.collection import Collection
from sret_jax.collection.place import read_about, write_about
from sret_jax.collection.shard import Shard
from sret_jax.config import Config, DataConfig, ExtractConfig, ModelConfig
from sret_jax.errors import UserError
from sret_jax.retriever import load
from sret_jax.storage.artifacts import DamagedError
from tests.support.photos import write_long_ago

OF = 3
CONFIG = Config(
    data=DataConfig(image_size=96, threads=1),
    model=ModelConfig(weights="none", stage="c4", whitening=False),
    extract=ExtractConfig(batch_size=4),
)
SCENES = {"cat": data.chelsea(), "cup": data.coffee(), "rocket": data.rocket(), "woman": data.astronaut()}


@pytest.fixture(scope="module")
def retriever():
    return load(CONFIG)


@pytest.fixture(scope="module")
def kept(tmp_path_factory, retriever):
    """Photographs, the collection of all, and the three shards of another one."""
    folder = tmp_path_factory.mktemp("shards")
    for name, pixels in SCENES.items():
        for i, cut in enumerate((0, 16, 32)):
            write_long_ago(folder / "photos" / f"{name}/{i}.jpg", pixels[cut : len(pixels) - cut, cut:])
    (folder / "photos/notes.jpg").write_text("no photograph")
    os.utime(folder / "photos/notes.jpg", (0, 0))
    index(folder, retriever, "whole").compact()
    for number in (2, 0, 1):
        index(folder, retriever, "parts", f"{number}/{OF}")
    return folder


def index(folder, retriever, name, shard=None):
    opened = Collection.open(folder / "photos", workdir=folder, name=name, retriever=retriever, shard=shard)
    opened._retriever = retriever  # compiled already
    opened.update()
    return opened


@pytest.fixture
def parts(kept, tmp_path):
    """A copy of the shards, beside the photographs."""
    shutil.copytree(kept / "parts/shards", tmp_path / "parts/shards")
    (tmp_path / "photos").symlink_to(kept / "photos")
    return tmp_path


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("photos-*/*"))}


def test_every_photograph_falls_to_one_shard_and_all_get_their_share():
    names = [f"{i}/ü {i}.jpg" for i in range(10_000)] + ["\udcff.jpg"]
    counts = [sum(Shard(number, 7).has(name) for name in names) for number in range(7)]
    assert sum(counts) == len(names) and max(counts) < 1.1 * min(counts)


def test_a_merged_collection_is_bit_for_bit_the_one_of_one_process(kept, parts):
    shares = [Collection(path) for path in sorted((parts / "parts/shards").iterdir())]
    whole, merged = Collection(kept / "whole"), Collection.merge(kept / "photos", workdir=parts, name="parts")
    assert sorted(name for share in shares for name in share.names) == whole.names == merged.names
    assert all(0 < len(share.names) < len(whole.names) for share in shares)
    assert files(parts / "parts") == files(kept / "whole")
    assert merged.status().skipped == whole.status().skipped != []
    query = kept / "photos/cat/1.jpg"
    found, expected = (own.search(query, (60, 40, 300, 220), k=5) for own in (merged, whole))
    assert found.answers == expected.answers
    shutil.rmtree(parts / "parts/shards")
    again = Collection.open(kept / "photos", workdir=parts, name="parts")
    assert not again.update().anything and not again.verify()


def test_a_photograph_alone_in_its_part_has_the_same_bits(kept, tmp_path, retriever):
    """Also where one program describes a photograph alone and another one a batch of them."""
    (tmp_path / "photos").symlink_to(kept / "photos")
    shares = [index(tmp_path, retriever, "parts", f"{number}/8") for number in range(8)]
    assert any(len(share.names) == 1 for share in shares)
    Collection.merge(tmp_path / "photos", workdir=tmp_path, name="parts")
    assert files(tmp_path / "parts") == files(kept / "whole")


def test_a_shard_goes_on_with_its_own_photographs(kept, tmp_path, retriever):
    shutil.copytree(kept / "photos", tmp_path / "photos")
    for number in range(OF):
        index(tmp_path, retriever, "parts", f"{number}/{OF}")
    (tmp_path / "photos/cat/0.jpg").unlink()
    new = [f"new/{i}.jpg" for i in range(6)]
    for i, name in enumerate(new):
        write_long_ago(tmp_path / "photos" / name, SCENES["cat"][: 100 + i])
    done = []
    for number in range(OF):
        opened = Collection(tmp_path / f"parts/shards/{number}-of-{OF}")
        opened._retriever = retriever
        done.append(opened.update())
    assert sorted(name for one in done for name in one.added) == new
    assert [name for one in done for name in one.removed] == ["cat/0.jpg"] and not any(one.changed for one in done)
    assert Collection.merge(tmp_path / "photos", workdir=tmp_path, name="parts").status().photos == 12 - 1 + 6


def test_what_collections_keep_below_the_photographs_is_none_of_a_shard(kept, tmp_path, retriever):
    shutil.copytree(kept / "photos", tmp_path / "photos")
    for name, number in (("other", None), ("parts", 0), ("parts", 1), ("parts", 0)):
        shard = None if number is None else f"{number}/2"
        opened = Collection.open(
            tmp_path / "photos", workdir=tmp_path / "photos/kept", name=name, retriever=retriever, shard=shard
        )
        opened._retriever = retriever
        opened.update()
    merged = Collection.merge(tmp_path / "photos", workdir=tmp_path / "photos/kept", name="parts")
    assert [name for name, _ in merged.status().skipped] == ["notes.jpg"]


def test_what_was_taken_out_stays_out(kept, parts):
    merged = Collection.merge(kept / "photos", workdir=parts, name="parts")
    merged.remove(["cat/1.jpg"])
    again = Collection.merge(kept / "photos", workdir=parts, name="parts")
    assert again.names == [name for name in Collection(kept / "whole").names if name != "cat/1.jpg"]
    assert not again.update().anything


def test_shards_that_do_not_make_a_whole_are_named(kept, parts, retriever):
    def refused(match):
        with pytest.raises(UserError, match=match):
            Collection.merge(kept / "photos", workdir=parts, name="parts")

    shard = parts / "parts/shards/1-of-3"
    about = read_about(shard)
    write_about(shard, {name: value for name, value in about.items() if name != "updated"})
    refused("not finished: 1/3; `sret index PHOTOS --shard=1/3` describes it")
    shard.rename(parts / "elsewhere")
    refused("not there: 1/3; `sret index PHOTOS --shard=1/3`")
    (parts / "elsewhere").rename(shard)
    write_about(shard, about | {"shard": "1/4"})
    refused("shards of 3 and of 4")
    write_about(shard, about)
    moved = jax.tree.map(lambda x: x * np.float32(1.01), retriever.variables)
    index(parts, dataclasses.replace(retriever, variables=moved), "parts", "1/3")
    refused("1-of-3: described by another retriever, or with other local features, than 0-of-3")
    assert not (parts / "parts/collection.json").exists()


def test_a_damaged_shard_changes_nothing(kept, parts):
    Collection.merge(kept / "photos", workdir=parts, name="parts")
    before = files(parts / "parts")
    (path,) = (parts / "parts/shards/2-of-3").glob("photos-*/maps")
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(DamagedError, match="2-of-3.*: the map of '.*' changed since it was written"):
        Collection.merge(kept / "photos", workdir=parts, name="parts")
    assert files(parts / "parts") == before


@pytest.mark.parametrize("text", ["3", "3/3", "-1/3", "a/b", "1/0", "", "1/2/3", "¹/3"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UserError, match="give NUMBER/OF with a number from 0 on"):
        Shard.parse(text)


def test_a_scheduler_says_which_part_it_is():
    array = {
        "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_ARRAY_TASK_MIN": "5",
        "SLURM_ARRAY_TASK_COUNT": "9",
        "SLURM_PROCID": "0",
    }
    assert str(Shard.parse("auto", array)) == "2/9"
    assert str(Shard.parse("auto", {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"})) == "3/4"
    assert str(Shard.parse("auto", {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"})) == "0/2"
    with pytest.raises(UserError, match="neither Slurm nor Open MPI"):
        Shard.parse("auto", {"SLURM_PROCID": "3"})
