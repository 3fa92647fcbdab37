"""Shards that machines of a Ray cluster describe, of which one is lost, merge to the collection of one process."""

import os
import subprocess
import sys
import threading

import pytest
from skimage import data

from sret_jax.cli import index
from sret_jax.collection.collection import Collection
from sret_jax.collection.on_ray import Outcome, Work, index_on_ray
from sret_jax.config import Config, DataConfig, ExtractConfig, ModelConfig
from sret_jax.errors import UserError
from sret_jax.retriever import load
from tests.support.photos import write_long_ago

CONFIG = Config(
    data=DataConfig(image_size=96, threads=1),
    model=ModelConfig(weights="none", stage="c4", whitening=False),
    extract=ExtractConfig(batch_size=4),
)
# What `conftest` sets in this process; the actors are processes of their own.
NUMERICS = {"JAX_NUM_CPU_DEVICES": "4", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
QUICKLY = {"RAY_worker_niceness": "0"}  # else other tests beside this one come before its actors
ONE_MACHINE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture
def root(tmp_path):
    cat = data.chelsea()
    for i in range(12):
        write_long_ago(tmp_path / f"photos/{i % 3}/{i}.jpg", cat[8 * i :, 5 * i :])
    (tmp_path / "photos/notes.jpg").write_text("no photograph")
    os.utime(tmp_path / "photos/notes.jpg", (0, 0))
    load(CONFIG).save(tmp_path / "run")
    return tmp_path / "photos"


def files(collection):
    return {path.name: path.read_bytes() for path in collection.folder.glob("photos-*/*")}


@pytest.mark.slow
def test_a_machine_that_is_lost_costs_no_byte(root, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    for name, value in (NUMERICS | QUICKLY).items():
        monkeypatch.setenv(name, value)
    whole = Collection.open(root, workdir=tmp_path / "kept", name="whole", retriever=str(tmp_path / "run"))
    whole.update()
    whole.compact()
    cluster = Cluster(initialize_head=True, head_node_args=ONE_MACHINE | {"include_dashboard": False})
    try:
        second = cluster.add_node(**ONE_MACHINE)
        lost, told = threading.Event(), []

        def tell(outcome, done, of):
            told.append(outcome)
            if not lost.is_set():
                lost.set()
                cluster.remove_node(second, allow_graceful=False)

        work = Work(str(root), str(tmp_path / "kept"), "parts", str(tmp_path / "run"))
        merged = index_on_ray(work, cluster.address, shards=4, tell=tell)
        assert lost.is_set() and sorted(own.shard for own in told) == [f"{i}/4" for i in range(4)]
        assert files(merged) == files(whole) and merged.status().photos == 12
        again = index_on_ray(work, cluster.address, tell=tell)
        assert [own.added for own in told[4:]] == [0] * 4 and files(again) == files(whole)
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_the_command_describes_on_this_machine(root, tmp_path):
    pytest.importorskip("ray")
    words = [
        str(root),
        "--engine=ray",
        "--shards=2",
        f"--retriever={tmp_path / 'run'}",
        f"--workdir={tmp_path / 'kept'}",
    ]
    command = [sys.executable, "-m", "sret_jax.cli.main", "index", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | NUMERICS | QUICKLY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"photos: 12 photographs of {root}"
    assert sorted(line.split(" of ")[0] for line in done.stdout.splitlines()[:-1]) == ["1", "2"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engine=ray"], "give PHOTOS"),
        (["PHOTOS", "--engine=ray", "--shard=0/2"], "no --shard"),
        (["PHOTOS", "--shards=3"], "are for --engine=ray"),
        (["PHOTOS", "--engine=spark"], "invalid choice: 'spark'"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(words, says, root):
    with pytest.raises(UserError, match=says):
        index.main([str(root) if word == "PHOTOS" else word for word in words])


def test_without_ray_one_line_says_what_to_install(root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'pip install "sret_jax\[ray\]"'):
        index_on_ray(Work(str(root), str(tmp_path / "kept")))


def test_shards_of_another_number_are_not_begun_beside_those_that_are_there(root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    Collection.open(root, workdir=tmp_path / "kept", name="parts", shard="0/3")
    with pytest.raises(UserError, match="shards of 3 are there; give --shards=3 to go on"):
        index_on_ray(Work(str(root), str(tmp_path / "kept"), "parts"), shards=4)


def test_an_actor_says_in_one_line_what_it_cannot_describe(root, tmp_path):
    from sret_jax.collection.on_ray import Describer

    outcome = Describer(Work(str(root / "none"), str(tmp_path / "kept"))).describe(0, 2)
    assert isinstance(outcome, Outcome) and "no folder" in outcome.refused and not outcome.busy
