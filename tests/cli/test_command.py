"""Command lines that change fields of a run's own config, and what becomes of them."""

import pytest

from sret_jax.cli.command import with_config
from sret_jax.config import run_config
from sret_jax.errors import UserError


@pytest.mark.parametrize("workdir", [["--workdir=runs/a:b"], ["--workdir", "runs/a:b"], ["-workdir=runs/a:b"]])
def test_fields_alone_change_the_config_of_the_run(workdir):
    words = ["eval.py", *workdir, "--config.seed=1", "--benchmark=folder"]
    first, added, *rest = with_config(words)
    assert [first, *rest] == words
    assert added == f"--config={run_config.__file__}:runs/a:b"


@pytest.mark.parametrize(
    "words",
    [
        ["--workdir=runs/a", "--benchmark=folder"],
        ["--workdir=runs/a", "--config=configs/gem.py", "--config.seed=1"],
        ["--config", "configs/gem.py", "--config.seed=1"],
        ["--benchmark=folder", "--workdir"],
    ],
)
def test_other_command_lines_stay_as_they_are(words):
    assert with_config(["eval.py", *words]) == ["eval.py", *words]


def test_fields_of_no_config_are_an_error():
    with pytest.raises(UserError, match=r"--config.seed=1: .*--config=FILE, or --workdir=DIR"):
        with_config(["eval.py", "--config.seed=1"])
