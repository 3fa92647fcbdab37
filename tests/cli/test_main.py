"""The `sret` command: what it does without a command or with a wrong one, and that mistakes get one line and exit 2."""

import re

import pytest

import sret_jax
from sret_jax.cli import main as module
from tests.support.commands import called, run_forked

COMMANDS = tuple(module.COMMANDS)
FLAGGED = module.FLAGGED
PLAIN = [command for command in COMMANDS if command not in FLAGGED]
CHOICES = ", ".join(COMMANDS)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_usage_names_every_command(monkeypatch, capsys, words):
    status, out, err = called(monkeypatch, capsys, *words)
    assert status == 0 and not err and out.startswith("usage: sret COMMAND ...")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == list(COMMANDS)


def test_the_version(monkeypatch, capsys):
    assert called(monkeypatch, capsys, "--version") == (0, f"{sret_jax.__version__}\n", "")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (
            "evla",
            f"error: no command 'evla'; did you mean 'eval'? Choose one of {CHOICES}\n",
        ),
        ("xyz", f"error: no command 'xyz'; choose one of {CHOICES}\n"),
        ("--benchmark=folder", f"error: no command '--benchmark=folder'; choose one of {CHOICES}\n"),
    ],
)
def test_an_unknown_command_gets_the_nearest_one(monkeypatch, capsys, word, says):
    status, out, err = called(monkeypatch, capsys, word)
    assert status == 2 and not out and err.startswith(says) and err.count("\n") == 1


@pytest.mark.parametrize("command", PLAIN)
def test_a_command_of_plain_words_says_what_it_does(monkeypatch, capsys, tmp_path, command):
    status, out, err = called(monkeypatch, capsys, command, "--help")
    assert status == 0 and not err and f"usage: sret {command}" in out
    monkeypatch.chdir(tmp_path)
    assert called(monkeypatch, capsys, command)[0] == 2  # without what it needs


@pytest.mark.parametrize("command", FLAGGED)
def test_a_command_of_flags_says_what_it_does(command, tmp_path):
    done = run_forked(command, "--help", cwd=tmp_path)
    assert done.returncode == 0 and f"sret {command} --" in done.stdout and "--workdir" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["convert", "in.pth", "out.npz"], "error: out.npz: the name must end in .safetensors\n"),
        (["convert", "in.pth", "out.safetensors"], "in.pth"),
        (["download", "ilias", "x", "--archives=nowhere"], "error: --archives=nowhere: no such folder; give that of"),
        (
            ["prepare", "gldv2", "nowhere", "cache"],
            "error: nowhere: no such folder; give that of the benchmark",
        ),
    ],
)
def test_bad_input_of_a_plain_command_is_one_line(monkeypatch, capsys, tmp_path, words, says):
    monkeypatch.chdir(tmp_path)
    status, out, err = called(monkeypatch, capsys, *words)
    assert status == 2 and not out and says in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("from sret_jax.config import Config\n\n\ndef get_config()\n    return Config()\n", "line 4: expected ':'"),
        ("\nwidth = 3 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("import nothing_such\n", "line 1: ModuleNotFoundError: No module named 'nothing_such'"),
        (
            "from sret_jax.config import Config\n\ndef get_config():\n    return Config(sead=1)\n",
            "line 4: TypeError: .* unexpected keyword argument 'sead'",
        ),
        ("def get_config():\n    return {}\n", "its get_config\\(\\) gives no Config"),
        ("x = 1\n", "it has no function get_config"),
        ("text = open('nothing.txt').read()\n", "No such file or directory: 'nothing.txt'"),
    ],
)
def test_a_failing_config_file_names_its_line(tmp_path, text, says):
    (tmp_path / "bad.py").write_text(text)
    done = run_forked("train", "--config=bad.py", "--workdir=w", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout, done.stderr
    assert done.stderr.startswith("error: ") and "bad.py" in done.stderr
    assert re.search(says, done.stderr), done.stderr
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        ("train", [], "error: give --config=NAME or a file, and --workdir=DIR\n"),
        (
            "train",
            ["--config=gem", "extra"],
            "error: unknown argument 'extra'; fields are set as --config.field=v",
        ),
        ("train", ["--config=gem", "--workdr=w"], "error: Unknown command line flag 'workdr'"),
        ("train", ["--config=gem", "--config.seed=x", "--workdir=w"], "error: .*seed"),
        ("train", ["--config=gemm", "--workdir=w"], "error: --config: no config 'gemm'; did you mean 'gem'"),
        (
            "train",
            ["--config=gem", "--workdir=w", "--num_processes=2"],
            "error: --num_processes and --process_id go with",
        ),
        ("train", ["--config=gem", "--workdir=w", "--coordinator=here"], "error: --coordinator=here: give HOST:PORT"),
        (
            "train",
            ["--config=gem", "--workdir=w", "--coordinator=h:1", "--num_processes=2", "--process_id=2"],
            "error: --num_processes=2 --process_id=2: give the number of processes",
        ),
        (
            "train",
            ["--config=gem", "--workdir=w", "--noconfig.train.steps"],
            "error: --noconfig.train.steps: .* must be a",
        ),
        ("adapt", ["--out=o", "--root=.", "--dim=-1"], "error: --dim=-1: must be a whole number from 0 to 65536"),
        (
            "adapt",
            ["--out=o", "--root=.", "--held_out=nan"],
            "error: --held_out=nan: must be a number from 0 to below 1",
        ),
        ("eval", ["--benchmark=folder"], "error: benchmark 'folder' needs photographs: give --root=PATH"),
        ("eval", ["--rerank=sv,hypergrph"], "error: --rerank: no re-ranker 'hypergrph'; did you mean 'hypergraph'"),
        ("eval", ["--localize=dens"], "error: --localize: no method 'dens'; did you mean 'dense'"),
    ],
)
def test_bad_use_of_a_command_of_flags_is_one_line(tmp_path, command, words, says):
    done = run_forked(command, *words, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout, done.stderr
    assert re.match(says, done.stderr), done.stderr


def test_home_is_written_as_a_tilde(tmp_path):
    home = {"HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()

    def said(command: str, *words: str) -> str:
        done = run_forked(command, *words, cwd=tmp_path, environment=home)
        assert done.returncode == 2, done.stderr
        return done.stderr

    there = f"{tmp_path}/home/nothing"
    assert f"--root={there}: no such folder" in said("eval", "--config=gem", "--benchmark=folder", "--root=~/nothing")
    assert f"{there}: holds no checkpoint" in said("eval", "--workdir=~/nothing")
    assert f"no photo folder '{there}'" in said(
        "train", "--config=gem", "--config.data.root=~/nothing", "--workdir=~/w"
    )
    assert (tmp_path / "home/w").is_dir() and not (tmp_path / "~").exists()
    (tmp_path / "home/own.py").write_text("x = 1 / 0\n")
    assert "ZeroDivisionError" in said("train", "--config=~/own.py", "--workdir=w")
