"""`--parts=FILE` and `--traceback`, and what is said of a file of parts that fails."""

import sys

import pytest

from sret_jax.cli import main
from sret_jax.cli.command import with_config
from sret_jax.cli.own_parts import import_parts, take_parts
from sret_jax.config.own_parts import own_names
from sret_jax.errors import UserError
from tests.support.commands import called, run_eval, run_forked
from tests.support.own_parts import EXAMPLES, forgotten
from tests.support.photos import write_photos


@pytest.fixture(autouse=True)
def registered():
    with forgotten():
        yield


def test_the_files_are_imported_and_the_rest_of_the_line_stays(tmp_path, monkeypatch):
    (tmp_path / "a_package").mkdir()
    (tmp_path / "a_package/__init__.py").write_text("")
    (tmp_path / "a_package/parts.py").write_text(
        "import sret_jax\n@sret_jax.register('loss', 'packaged')\ndef part(x, labels): return x.sum()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rest = take_parts(
        ["a", f"--parts={EXAMPLES / 'pooling.py'},a_package.parts", "--b=c", "-parts", str(EXAMPLES / "loss.py")]
    )
    assert rest == ["a", "--b=c"] and own_names("loss") == ("packaged", "proxies") and own_names("pooling")
    sys.modules.pop("a_package.parts")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, r"--parts=.*own\.py: no such file"),
        ("import sret_jax\n\n1 / 0\n", r"--parts: own\.py:3: ZeroDivisionError: division by zero"),
        ("x = 1\ny = = 2\n", r"--parts: own\.py:2: SyntaxError"),
    ],
)
def test_a_file_that_fails_is_said_with_its_line(tmp_path, text, says):
    if text is not None:
        (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError, match=says):
        import_parts(str(tmp_path / "own.py"))


def test_every_command_takes_them_and_traceback_shows_where_an_error_is_from(tmp_path, monkeypatch, capsys):
    (tmp_path / "own.py").write_text("import sret_jax\n\ndef fails(): raise sret_jax.UserError('not so')\nfails()\n")
    status, out, err = called(monkeypatch, capsys, "status", f"--parts={tmp_path / 'own.py'}")
    assert (status, out, err) == (2, "", "error: not so\n")
    status, _, err = called(monkeypatch, capsys, "status", f"--parts={tmp_path / 'own.py'}", "--traceback")
    assert status == 2 and 'own.py", line 3, in fails' in err and err.endswith("error: not so\n")
    assert "--parts=FILE" in main.usage()


def test_arguments_of_a_part_are_no_unknown_field():
    words = ["sret train", f"--config={EXAMPLES / 'pooling.py'}", "--config.model.parts.strongest.share=0.3"]
    assert with_config(words) == words


@pytest.mark.slow
def test_a_config_file_with_a_pooling_goes_from_training_to_a_report(tmp_path):
    """The two commands of the page, a second start, and one with the file's pooling in pieces."""
    for name in ("backbone", "pooling"):
        (tmp_path / f"{name}.py").write_text((EXAMPLES / f"{name}.py").read_text())
    root = write_photos(tmp_path / "photos")
    small = "--config.data.dataset=folder", f"--config.data.root={root}", "--config.data.image_size=64"
    small += "--config.model.backbone=patches", "--config.model.weights=none", "--config.model.whitening_dim=8"
    small += "--config.data.instances_per_batch=2", "--config.data.photos_per_instance=2", "--config.train.save_every=1"
    small += "--config.eval.benchmarks=('folder',)", "--parts=backbone.py", "--workdir=run"
    more = "--config.model.parts.strongest.share=0.3"
    assert (done := run_forked("train", "--config=pooling.py", more, *small, cwd=tmp_path)).returncode == 0, done.stderr
    again = run_forked("train", "--config=pooling.py", more, *small, cwd=tmp_path)
    assert again.returncode == 0 and "run is finished" in again.stderr
    where = "--workdir=run", "--benchmark=folder", f"--root={root}"
    found = run_eval(*where, "--parts=backbone.py,pooling.py", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "run/eval/folder/report.html").stat().st_size

    missing = run_eval(*where, "--parts=backbone.py", cwd=tmp_path)
    assert missing.returncode == 2 and len(missing.stderr.splitlines()) == 1
    assert "needs the pooling 'strongest' of pooling.py" in missing.stderr

    text = (tmp_path / "pooling.py").read_text()
    (tmp_path / "pooling.py").write_text(text.replace("    values = ", "    x @ mask\n    values = "))
    broken = run_forked("train", "--config=pooling.py", *small, "--workdir=other", cwd=tmp_path)
    assert broken.returncode == 2 and "error: pooling.py:12: pooling 'strongest': TypeError" in broken.stderr
    assert "Traceback" not in broken.stderr
    shown = run_forked("train", "--config=pooling.py", *small, "--workdir=other", "--traceback", cwd=tmp_path)
    assert shown.returncode == 2 and "Traceback" in shown.stderr and "x @ mask" in shown.stderr

    changed = run_forked("train", "--config=pooling.py", more, *small, cwd=tmp_path)
    assert changed.returncode == 2 and "pooling.py:10: the pooling 'strongest' is not what run" in changed.stderr

    listed = run_eval("--help", "--parts=" + str(EXAMPLES / "reranker.py"), cwd=tmp_path)
    assert "hypergraph, mutual" in " ".join(listed.stdout.split())
