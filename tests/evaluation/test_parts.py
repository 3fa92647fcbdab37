"""A benchmark whose photographs several processes describe is measured as if one had."""

import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from sret_jax.config import ExtractConfig, LocalSearchConfig, RerankConfig
from sret_jax.evaluation.benchmark import open_benchmark
from sret_jax.evaluation.run import describe_part
from sret_jax.retriever import Retriever
from sret_jax.storage.row_store import PARTS, Part
from sret_jax.storage.workdir import Workdir
from tests.support.commands import run_eval
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import write_photos
from tests.support.runs import config, measure


def stored(folder):
    """Bytes of what is kept of photographs, but of parts."""
    return {
        path.relative_to(folder): path.read_bytes()
        for kind in ("descriptors", "local")
        for path in (folder / kind).rglob("*")
        if path.is_file() and PARTS not in path.relative_to(folder).parts and not path.name.startswith(".")
    }


def test_parts_of_a_benchmark_are_measured_as_one_process_measures_it(tmp_path, caplog):
    write_photos(tmp_path / "photos")
    settings = config(tmp_path / "photos", rerank=RerankConfig(stages=("sv:3",)), local=LocalSearchConfig(chunk_rows=5))
    settings = replace(settings, extract=ExtractConfig(batch_size=4, chunk_rows=4))
    whole = measure(
        NETWORK, VARIABLES, settings, "folder", tmp_path / "whole/eval/folder", cache_dir=tmp_path / "cache"
    )
    benchmark = open_benchmark("folder", config=settings, cache=tmp_path / "cache")
    retriever, place = Retriever(NETWORK, VARIABLES, settings), Workdir(tmp_path / "parts")
    counts = [describe_part(retriever, benchmark, place, Part(number, 2)) for number in (1, 0)]
    assert all(counts) and not stored(place.root)
    parts = measure(
        NETWORK, VARIABLES, settings, "folder", tmp_path / "parts/eval/folder", cache_dir=tmp_path / "cache"
    )
    assert parts["extracted"] == 0 and parts["metrics"] == whole["metrics"]
    assert stored(tmp_path / "parts") == stored(tmp_path / "whole") != {}
    assert "lack" not in caplog.text


@pytest.mark.slow
def test_the_command_describes_a_part_and_ends(tmp_path):
    write_photos(tmp_path / "photos")
    words = ["--config=gem", "--benchmark=folder", f"--root={tmp_path / 'photos'}", "--config.extract.chunk_rows=4"]
    done = run_eval(*words, "--shard=1/2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "folder: part 1/2 of its photographs is described, 4 of them\n"
    done = run_eval(*words, cwd=tmp_path)
    assert done.returncode == 0 and "its parts lack 8 photographs, which are described here" in done.stderr
    assert '"extracted": 8' in (tmp_path / "runs/untrained-gem/eval/folder/results.json").read_text()
    refused = run_eval(*words, "--shard=2/2", cwd=tmp_path)
    assert refused.returncode == 2 and "give NUMBER/OF" in refused.stderr


@pytest.mark.slow
def test_processes_describe_together_and_the_first_one_measures(tmp_path):
    write_photos(tmp_path / "photos")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    words = ["--config=gem", "--benchmark=folder", f"--root={tmp_path / 'photos'}", "--config.extract.chunk_rows=4"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "sret_jax.cli.main", "eval", *words]
            + [f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={number}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        for number in range(2)
    ]
    try:
        said = [process.communicate(timeout=600) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said
    for number, (out, _) in enumerate(said):
        assert f"folder: part {number}/2 of its photographs is described" in out
    assert "mAP" in said[0][0] and "mAP" not in said[1][0]
    assert '"extracted": 0' in (tmp_path / "runs/untrained-gem/eval/folder/results.json").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--shard=0/2", "--coordinator=h:1", "--num_processes=2", "--process_id=0"],
            "--shard and --coordinator: give one",
        ),
        (["--shard=0/2", "--rankings=x.npy", "--benchmark=folder"], "--rankings and --marks need none"),
        (["--process_id=0"], "--num_processes and --process_id go with"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path, words, says):
    refused = run_eval("--config=gem", *words, cwd=tmp_path)
    assert refused.returncode == 2 and says in refused.stderr and refused.stderr.count("\n") == 1
