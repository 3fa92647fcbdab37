"""Shards that machines of a Ray cluster describe, of which one is lost, merge to the collection of one process."""

import os
import re
import sys
import threading
from types import SimpleNamespace

import pytest
from skimage import data

from sret_jax.cli import index
from sret_jax.collection import on_ray
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
# Beside other tests Ray's own processes start slowly; and its actors would come after all of them.
PATIENTLY = {"RAY_worker_niceness": "0", "RAY_agent_register_timeout_ms": "300000"}
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
def test_a_machine_that_is_lost_costs_no_byte(root, tmp_path, monkeypatch, capsys):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    for name, value in (NUMERICS | PATIENTLY).items():
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
        index.main([str(root), f"--ray={cluster.address}", f"--workdir={work.workdir}", "--name=parts"])
        lines = capsys.readouterr().out.splitlines()  # and what Ray says of the machine that it has lost
        said = [line for line in lines if re.match(r"\d of 4: |parts: ", line)]
        assert len(said) == 5 and all(line.endswith("(0 added)") for line in said[:4])
        assert said[4] == f"parts: 12 photographs of {root}" and files(merged) == files(whole)
    finally:
        cluster.shutdown()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ray=local"], "give PHOTOS"),
        (["PHOTOS", "--ray=local", "--shard=0/2"], "describes all parts of a folder"),
        (["PHOTOS", "--ray=local", "--engine=local"], "--engine later"),
        (["PHOTOS", "--ray=local", "--store=int8"], "or --store"),
        (["PHOTOS", "--shards=3"], "are for --ray=ADDRESS"),
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


# ---- Who gets which shard, by a cluster that is only played --------------------------------------------------------


class PlayedRay:
    """Ray's calls, of which `script` says the outcomes: {shard: [what becomes of it, the first time first]}.

    An outcome is an exception that is raised, or an `Outcome`; where nothing is said the shard is described. `starts`
    says of each actor, in the order in which they are asked for, whether it starts: True, False or an exception.
    """

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def __init__(self, script=None, starts=()):
        self.script, self.starts, self.pending, self.actors = script or {}, list(starts), {}, 0

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, **options):
        assert options["max_restarts"] == 0  # a replacement is asked for by who knows which shard was lost
        return lambda kind: SimpleNamespace(remote=self.actor)

    def actor(self, work):
        self.actors += 1
        starts = self.starts.pop(0) if self.starts else True
        return SimpleNamespace(
            place=SimpleNamespace(remote=lambda: self.promise("here", starts)),
            describe=SimpleNamespace(remote=self.describe),
        )

    def describe(self, number, of):
        told = self.script.get(number)
        return self.promise(told.pop(0) if told else Outcome(f"{number}/{of}", photos=1))

    def promise(self, value, comes=True):
        reference = object()
        self.pending[reference] = (comes if isinstance(comes, Exception) else value, comes is not False)
        return reference

    def wait(self, references, num_returns, timeout):
        ready = [own for own in references if self.pending[own][1]][:1]
        return ready, [own for own in references if own not in ready]

    def get(self, reference):
        value, _ = self.pending.pop(reference)
        if isinstance(value, Exception):
            raise value
        return value


LOST = PlayedRay.exceptions.RayError("Ray says\nThe actor died: its node is gone")
BUSY = Outcome("x", refused="in use by process 7", busy=True)


def described(ray, of=4, actors=2):
    told = []
    on_ray._describe_all(
        ray, Work("photos", "kept"), of, actors, lambda outcome, done, of: told.append((outcome, done, of))
    )
    assert [(done, whole) for _, done, whole in told] == [(i + 1, of) for i in range(of)]
    return [outcome.shard for outcome, _, _ in told]


def test_a_shard_that_is_lost_is_described_by_another_actor_first_of_all(caplog):
    ray = PlayedRay({0: [LOST], 3: [LOST, LOST]})
    assert sorted(described(ray)) == ["0/4", "1/4", "2/4", "3/4"]
    assert ray.actors == 5 and "shard 0/4 is given to another actor: The actor died: its node is gone" in caplog.text


def test_who_is_left_describes_everything_where_no_other_actor_starts():
    assert len(described(PlayedRay({1: [LOST]}, starts=[True, True, False]))) == 4
    assert len(described(PlayedRay(starts=[LOST, True, False]))) == 4


def test_a_shard_that_a_dying_process_holds_is_asked_for_again(monkeypatch):
    slept = []
    monkeypatch.setattr(on_ray.time, "sleep", slept.append)
    assert len(described(PlayedRay({2: [BUSY, BUSY]}))) == 4 and slept == [1, 1]
    with pytest.raises(UserError, match="in use by process 7"):
        described(PlayedRay({2: [BUSY] * 99}))


@pytest.mark.parametrize(
    ("ray", "says"),
    [
        (PlayedRay({1: [Outcome("1/4", refused="no folder 'photos'")]}), "^no folder 'photos'$"),
        (PlayedRay({1: [LOST] * 9}), "shard 1/4 was lost 5 times, at last: The actor died: its node is gone"),
        (
            PlayedRay({1: [PlayedRay.exceptions.RayTaskError("x\nKeyError: 'a'")]}),
            "could not be described: KeyError: 'a'",
        ),
        (PlayedRay(starts=[LOST] * 9), "no actor could be started: The actor died"),
        (PlayedRay(starts=[False, False]), "no actor could be started; the cluster has no free processor"),
    ],
)
def test_what_cannot_be_described_ends_in_one_line(ray, says):
    with pytest.raises(UserError, match=says):
        described(ray)
