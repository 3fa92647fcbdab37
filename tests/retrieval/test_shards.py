"""An index in shards finds what one finds; its processes may die, and never outlive it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sret_jax.config import SearchConfig
from sret_jax.errors import UserError
from sret_jax.retrieval import index_parts, shards
from sret_jax.retrieval.index import Index
from sret_jax.retrieval.searcher import best_first
from sret_jax.storage.artifacts import DamagedError

pytestmark = pytest.mark.slow
N, D = 203, 24


def data(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


def rows() -> np.ndarray:
    x = data(N)
    x[150:180], x[199] = x[4], x[4]  # equal ones on both sides of a border
    return x


def build(x: np.ndarray, **settings) -> Index:
    return Index.build(x, [f"{i}.jpg" for i in range(len(x))], SearchConfig(**settings))


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    return False


def wait_until(true, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(true())


def pids(index: Index) -> list[int]:
    return [process.pid for process in index._shards._processes if process]


@pytest.fixture(scope="module")
def index():
    built = build(rows(), method="exact", shards=2, chunk_rows=50)
    yield built
    built.close()


@pytest.mark.parametrize("k", [1, 40, 150, N])
def test_shards_find_what_one_index_finds_bit_for_bit(index, k):
    queries = np.concatenate([rows()[2:8], data(5, seed=1)])
    one, found = build(rows(), method="exact").search(queries, k), index.search(queries, k)
    np.testing.assert_array_equal(found.ids, one.ids)
    np.testing.assert_array_equal(found.scores, one.scores)


def test_merging_is_that_of_loops():
    rng = np.random.default_rng(0)
    parts = [(rng.permutation(30)[:8], rng.integers(0, 4, 8).astype(np.float32)) for _ in range(3)]
    ids = np.concatenate([30 * i + own for i, (own, _) in enumerate(parts)])
    scores = np.concatenate([own for _, own in parts])
    ids[5], scores[5] = -1, -np.inf  # a shard that found fewer
    ranked: list[int] = []
    while len(ranked) < 10:
        ranked.append(min((i for i in range(24) if i not in ranked), key=lambda i: (-scores[i], ids[i])))
    found, best = best_first(ids[None], scores[None], 10)
    np.testing.assert_array_equal(found[0], ids[ranked])
    np.testing.assert_array_equal(best[0], scores[ranked])


def test_a_shard_that_dies_is_named_and_started_again(index, caplog):
    queries = data(3, seed=2)
    before = index.search(queries, 9)
    first, second = pids(index)
    os.kill(second, signal.SIGKILL)
    assert wait_until(lambda: not alive(second))
    after = index.search(queries, 9)
    np.testing.assert_array_equal(before.ids, after.ids)
    said = f"shard 2 of 2 (photos 101 to 202): its process {second} ended with signal 9; it is started and asked again"
    assert said in caplog.text and pids(index)[0] == first and pids(index)[1] != second


def test_a_shard_that_is_killed_while_it_is_asked_answers_all_the_same(index):
    queries = data(64, seed=2)
    before, stop = index.search(queries, 50), threading.Event()

    def kill_now_and_then():
        for _ in range(2):
            time.sleep(0.02)
            for pid in pids(index)[:1]:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if stop.wait(0.5):
                return

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        for _ in range(3):
            np.testing.assert_array_equal(index.search(queries, 50).ids, before.ids)
    finally:
        stop.set()
        killer.join()


def test_a_shard_that_always_dies_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr(shards, "PROGRAM", ["-c", "import os; os.abort()"])
    broken = build(rows(), method="exact", shards=2)
    with pytest.raises(UserError, match=r"shard 1 of 2 \(photos 0 to 100\): its process .* signal 6, 3 times"):
        broken.search(data(1), 1)
    assert not pids(broken)
    broken.close()


def test_what_a_shard_cannot_load_it_says_and_the_others_end(index, tmp_path):
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    np.testing.assert_array_equal(loaded.search(data(2), 5).ids, index.search(data(2), 5).ids)
    assert (
        loaded.description
        == index.description
        == f"2 shards, a process each: exact search on the device, {N} photos x {D}"
    )
    own = pids(loaded)
    loaded._shards._end_all()
    assert wait_until(lambda: not any(map(alive, own)))
    np.save(tmp_path / "index/descriptors.npy", data(3))
    with pytest.raises(UserError, match=f"descriptors.npy has 3 rows for {N} names"):
        loaded.search(data(1), 1)
    assert not pids(loaded)
    with pytest.raises(DamagedError):
        Index.load(tmp_path / "index")


@pytest.mark.parametrize("listed", [[{"start": 1}], [{"start": 0}, {"start": 500}], [{"start": "0"}]])
def test_parts_that_do_not_follow_each_other_are_refused(listed):
    about = {"names": ["a"] * N, "method": "exact", "parts": [own | {"settings": {}, "error": 0} for own in listed]}
    with pytest.raises((ValueError, TypeError)):
        index_parts.listed_parts(Path("index"), about, SearchConfig(shards=2))


def test_nothing_is_left_of_an_index_that_is_closed_or_gone():
    built = build(rows(), method="exact", shards=2)
    built.search(data(1), 1)
    own, folder = pids(built), Path(built._shards.parts[0].folder)
    assert folder.is_dir() and all(map(alive, own))
    del built
    assert wait_until(lambda: not any(map(alive, own))) and not folder.exists()


@pytest.mark.parametrize("end", ["exception", "SIGKILL"])
def test_nothing_is_left_when_the_command_ends(end, tmp_path):
    """However it ends; a script needs no guard around what it does."""
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, json, os, sys\n"
        "from sret_jax.config import SearchConfig\n"
        "from sret_jax.retrieval.index import Index\n"
        "x = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)\n"
        "index = Index.build(x, [str(i) for i in range(20)], SearchConfig(method='exact', shards=2))\n"
        "assert index.search(x[:3], 1).ids[:, 0].tolist() == [0, 1, 2]\n"
        "print(json.dumps([[p.pid for p in index._shards._processes], index._shards.parts[0].folder]), flush=True)\n"
        "if sys.argv[1] == 'exception': raise ValueError\n"
        "if sys.argv[1] == 'SIGKILL': sys.stdin.read()\n"
    )
    place = Path(shards.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, str(script), end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(place), "TMPDIR": str(tmp_path)},
    ) as command:
        own, folder = json.loads(command.stdout.readline())
        if end == "SIGKILL":
            command.kill()
    assert len(own) == 2 and wait_until(lambda: not any(map(alive, own)))
    assert wait_until(lambda: not Path(folder).exists())
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def test_recall_of_shards_is_at_least_that_of_one(tmp_path):
    pytest.importorskip("scann")
    x, queries = data(1200), data(60, seed=1)
    right = build(x, method="exact").search(queries, 10).ids
    one = build(x, method="tree_ah", leaves_to_search=12, reorder=40)
    two = build(x, method="tree_ah", leaves_to_search=12, reorder=40, shards=2)

    def recall(index: Index) -> float:
        return np.mean([np.isin(a, b).mean() for a, b in zip(right, index.search(queries, 10).ids, strict=True)])

    assert recall(two) >= recall(one) > 0.3
    two.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    before, after = two.search(queries, 10), loaded.search(queries, 10)
    np.testing.assert_array_equal(before.ids, after.ids)
    np.testing.assert_array_equal(before.scores, after.scores)
    np.testing.assert_array_equal(loaded.descriptors, one.descriptors)
    two.close(), loaded.close()


def test_too_few_photos_for_the_shards_name_the_remedy():
    with pytest.raises(UserError, match="search.shards=5: needs 5 photos, there are 3; set it to 3"):
        build(data(3), method="exact", shards=5)
    pytest.importorskip("scann")
    with pytest.raises(UserError, match="search.shards=3: needs 48 photos, there are 40; set it to 2"):
        build(data(40), method="ah", shards=3)


def test_a_full_disk_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(index_parts.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(index_parts, "write_array", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left", "x")))
    with pytest.raises(UserError):
        build(rows(), method="exact", shards=2)
    assert not list(tmp_path.iterdir())
    shutil.rmtree(tmp_path)
