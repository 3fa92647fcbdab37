"""What one command has compiled, the next one finds: the second run of any command compiles nothing."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.commands import REPOSITORY
from tests.support.photos import write_photos

CONFIG = """
from sret_jax.config import *

def get_config():
    return Config(
        data=DataConfig(
            root="photos", image_size=64, threads=1, instances_per_batch=2, photos_per_instance=2, cache_dir="cache"
        ),
        model=ModelConfig(weights="none", stage="c2", whitening_dim=8, smoothing=SmoothingConfig(enabled=True)),
        train=TrainConfig(steps=2, loss="contrastive", margin=0.7),
        extract=ExtractConfig(batch_size=4),
        eval=EvalConfig(benchmarks=()),
    )
"""
PHOTO = "tower 1/0.jpg"
COMMANDS = {  # by name, with what has to be gone before the second run
    "train": (["train", "--config=small.py", "--workdir=run"], "run"),
    "eval": (["eval", "--workdir=run", "--benchmark=folder", "--root=photos", "--rerank=aqe"], "run/descriptors"),
    "index": (["index", "photos", "--retriever=run", "--local=sift"], "runs"),
    "search": (["search", f"photos/{PHOTO}", "--region=8,8,40,40", "--verify"], ""),
    "export": (["export", "run", "exported", "--stablehlo"], "exported"),
    "serve": (["serve", "--port=0", "--no-update"], ""),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled-once")
    (folder / "small.py").write_text(CONFIG)
    write_photos(folder / "photos", photos=5)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """`run(words, ask=None)`, with a cache of compiled programs in the user's cache folder, which is another one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(folder / "user's")}
    command = [sys.executable, "-m", "tests.support.counted_commands"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, **pipes) as server:
        assert server.stdout.readline() == "ready\n"

        def run(words, ask=None):
            print(json.dumps({"words": words, "cwd": str(folder), "ask": ask}), file=server.stdin, flush=True)
            return json.loads(server.stdout.readline())

        yield run
        server.stdin.close()


@pytest.mark.slow
def test_the_second_run_of_every_command_compiles_nothing(run, folder):
    """One after the other, because each needs what those before it have left."""
    for name, (words, made) in COMMANDS.items():
        ask = {"name": PHOTO} if name == "serve" else None
        first = run(words, ask)
        assert first["status"] == (130 if ask else 0), f"{name}: {first['said']}"
        assert first["asked"] and (first["missed"] or name == "serve"), name  # which has what search has compiled
        if made:
            (folder / made).rename(folder / f"first {name}")
        second = run(words, ask)
        assert second["status"] == first["status"], f"{name}: {second['said']}"
        assert second["missed"] == [] and second["asked"] == second["found"] > 0, f"{name}: {second['missed']}"
        assert "PERSISTENT" not in second["said"] and (not ask or PHOTO.split("/")[0] in second["said"])
    assert any((folder / "user's/sret_jax/compiled").iterdir())


@pytest.mark.slow
def test_more_photographs_compile_nothing_new(run, folder):
    """After the other test: the programs that index and search do not depend on how many there are."""
    write_photos(folder / "photos/more", instances=2, photos=4, seed=1)
    for words in (["index", "photos"], COMMANDS["search"][0]):
        found = run(words)
        assert found["status"] == 0 and found["asked"] == found["found"], f"{words[0]}: {found['missed']}"
