"""What is wrong with a command line is said before anything is imported that takes long."""

import json
import os
import subprocess
import sys

import pytest

from sret_jax.cli.main import COMMANDS
from tests.support.commands import REPOSITORY

HEAVY = "jax scann tensorflow_datasets cv2 flax numpy scipy PIL matplotlib orbax grain sklearn skimage rich".split()
LINES = {  # each with something that is wrong, which the command finds before it begins
    "": ["--help"],
    "version": ["--version"],
    "unknown": ["indx"],
    "train, a field": ["train", "--config=gem", "--workdir=w", "--config.train.stepz=3"],
    "train, a value": ["train", "--config=gem", "--workdir=w", "--config.train.steps=-3"],
    "train, a config": ["train", "--config=gemm", "--workdir=w"],
    "train, nothing": ["train"],
    "train, processes": ["train", "--config=gem", "--workdir=w", "--coordinator=here"],
    "eval, a re-ranker": ["eval", "--rerank=nearly"],
    "eval, a method": ["eval", "--localize=somehow"],
    "eval, a benchmark": ["eval", "--benchmark=oxford"],
    "eval, a folder": ["eval", "--benchmark=folder", "--root=nowhere"],
    "adapt, nothing": ["adapt"],
    "adapt, a value": ["adapt", "--out=o", "--root=.", "--dim=-1"],
    "index, a folder": ["index", "", "--name=x"],
    "search, nothing": ["search"],
    "export, photographs": ["export", "run", "out", "--photos=x"],
    "convert, a name": ["convert", "in.pth", "out.npz"],
    **{f"{command}, a flag": [command, "--no-such-flag"] for command in COMMANDS},
    **{f"{command}, help": [command, "--help"] for command in COMMANDS},
}
PROGRAM = f"""
import json, os, sys
from sret_jax.cli.main import main
for line in json.load(sys.stdin):
    sys.stdout.flush()
    if not os.fork():
        sys.argv, said, status = ["sret", *line], os.dup(1), 0
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            main()
        except SystemExit as ending:
            status = ending.code
        os.write(said, json.dumps([status, [one for one in {HEAVY} if one in sys.modules]]).encode() + b"\\n")
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """By line: its exit status, and what it has imported of what takes long; each in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(list(LINES.values())),
        cwd=tmp_path_factory.mktemp("empty"),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(LINES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_a_wrong_line_imports_nothing_that_takes_long(ended, line):
    status, imported = ended[line]
    allowed = {"numpy"} if line.startswith("serve") else set()  # the kinds of a region
    assert set(imported) <= allowed, f"sret {' '.join(LINES[line])}"
    assert (status or 0) == (0 if line in ("", "version") or line.endswith("help") else 2)


def test_the_package_imports_nothing_that_takes_long():
    code = f"import sys, sret_jax; print([one for one in {HEAVY} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
