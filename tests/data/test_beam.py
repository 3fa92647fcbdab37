"""Preparation by Apache Beam on the local runner: the same set as without it, whoever wrote which photograph."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sret_jax.data import beam
from sret_jax.data.lists import listed, prepare_listed
from sret_jax.datasets.sfm120k import prepare_sfm, prepare_sfm_splits
from sret_jax.errors import UserError
from tests.support.miniatures import million
from tests.support.sfm120k import IDS, TABLE, write

WORKERS = ["--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]

IN_ONE_PROCESS = ["--runner=DirectRunner", "--direct_num_workers=1"]


def photographs(folder, count=9):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (20 + i, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{(5 * i) % count}.png")
    return [listed(folder, str(i), instance=f"tower {i % 2}" if i else None) for i in range(count)]


def test_without_beam_it_says_so(monkeypatch):
    monkeypatch.setattr(beam.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'sret_jax\[beam\]', or leave the preparation to eval.py"):
        beam.with_beam([])


def test_with_too_few_files_it_does_not_begin(monkeypatch):
    monkeypatch.setattr(beam.importlib.util, "find_spec", lambda _: "there")
    monkeypatch.setattr(beam.resource, "getrlimit", lambda _: (12, 4096))
    with pytest.raises(UserError, match=r"Beam: Too many open files for a limit of 12; raise .*\(ulimit -n\)"):
        beam.with_beam([])


@pytest.mark.slow
def test_workers_write_the_same_set(tmp_path):
    pytest.importorskip("apache_beam")
    found = photographs(tmp_path / "photos")
    one = prepare_listed("tiny", tmp_path / "photos", found, tmp_path / "one")
    many = prepare_listed("tiny", tmp_path / "photos", found, tmp_path / "many", beam.with_beam(WORKERS))
    assert many.names == one.names == [str(i) for i in range(9)] and many.instances == one.instances
    assert many.digests == one.digests and many.fingerprint == one.fingerprint
    np.testing.assert_array_equal(many.sizes, one.sizes)
    np.testing.assert_array_equal(many.labels, one.labels)
    assert [many.source[i]["image"] for i in range(9)] == [one.source[i]["image"] for i in range(9)]
    left = {part: {path.name for path in (tmp_path / part).glob("listed/tiny-*/*")} for part in ("one", "many")}
    assert left["many"] == left["one"] - {"photo_records"} | {"beam_records"}
    # What is there is not made again, whoever asks.
    again = prepare_listed("tiny", tmp_path / "photos", found, tmp_path / "many")
    assert again.fingerprint == many.fingerprint and len(list((tmp_path / "many/listed").glob("tiny-*"))) == 1


@pytest.mark.slow
def test_what_a_worker_cannot_read_is_named(tmp_path):
    pytest.importorskip("apache_beam")
    found = photographs(tmp_path / "photos", 3)
    (tmp_path / "photos/1.png").write_bytes(b"not a photograph")
    with pytest.raises(UserError, match="tiny: 1 of its 3 photographs cannot be used .1: "):
        prepare_listed("tiny", tmp_path / "photos", found, tmp_path / "cache", beam.with_beam(IN_ONE_PROCESS))
    assert not list((tmp_path / "cache").rglob("MANIFEST.json"))


@pytest.mark.slow
def test_training_tuples_are_those_without_beam(tmp_path):
    pytest.importorskip("apache_beam")
    root = write(tmp_path / "sfm", TABLE, missing=[IDS[2], IDS[7]])
    one = prepare_sfm_splits(root, tmp_path / "one")
    many = prepare_sfm_splits(root, tmp_path / "many", beam.with_beam(IN_ONE_PROCESS))
    for split in ("train", "val"):
        assert many[split].names == one[split].names == [cid for i, cid in enumerate(IDS) if i not in (2, 7)]
        assert many[split].fingerprint == one[split].fingerprint and many[split].skipped == one[split].skipped
        assert len(many[split].skipped) == 2
        assert [many[split].source[i] for i in range(6)] == [one[split].source[i] for i in range(6)]
    # Training finds what the command has prepared.
    train = prepare_sfm(root, tmp_path / "many", split="train")
    assert train.fingerprint == one["train"].fingerprint
    assert not list((tmp_path / "many").rglob("photo_records")) and list((tmp_path / "many").rglob("beam_records"))


@pytest.mark.slow
def test_the_command_prepares_what_eval_reads(tmp_path):
    pytest.importorskip("apache_beam")
    million(tmp_path / "m")
    run = [
        sys.executable,
        "-m",
        "sret_jax.cli.main",
        "prepare",
        "revisitop1m",
        "m",
        "cache",
        f"--beam_options={' '.join(WORKERS)}",
    ]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "revisitop1m is prepared in cache" in done.stdout
    assert list(tmp_path.glob("cache/listed/revisitop1m-*/beam_records/*/*.array_record*"))
    missing = subprocess.run([*run[:5], "nothing", "cache"], cwd=tmp_path, capture_output=True, text=True)
    assert missing.returncode == 2 and "error: nothing: no such folder" in missing.stderr
