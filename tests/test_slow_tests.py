"""Slow tests run where they are asked for, by `-m` or by name, and nowhere else."""

import shlex

import pytest

from tests.support.commands import REPOSITORY

pytest_plugins = ["pytester"]

FILE = """
import pytest

def test_quick(): pass

@pytest.mark.slow
@pytest.mark.parametrize("case", ["x", "y::z"])
def test_long(case): pass

@pytest.mark.slow
def test_long_too(): pass

@pytest.mark.slow
class TestGroup:
    def test_long(self): pass
"""
SLOW = {"test_long[x]", "test_long[y::z]", "test_long_too", "TestGroup::test_long"}
CASES = [
    ("", {"a/test_1.py::test_quick", "test_2.py::test_quick"}),
    ("a", {"a/test_1.py::test_quick"}),
    ("a/test_1.py", {"a/test_1.py::test_quick"}),
    ("a/test_1.py::test_long", {"a/test_1.py::test_long[x]", "a/test_1.py::test_long[y::z]"}),
    ("a/../a/test_1.py::test_long[y::z]", {"a/test_1.py::test_long[y::z]"}),
    ("a/test_1.py::TestGroup", {"a/test_1.py::TestGroup::test_long"}),
    ("a/test_1.py::test_long_too test_2.py", {"a/test_1.py::test_long_too", "test_2.py::test_quick"}),
    ("-m slow test_2.py", {f"test_2.py::{name}" for name in SLOW}),
    ("-m 'slow or not slow' test_2.py", {f"test_2.py::{name}" for name in SLOW | {"test_quick"}}),
]


@pytest.fixture
def tree(pytester):
    (pytester.mkdir("a") / "test_1.py").write_text(FILE)
    (pytester.path / "test_2.py").write_text(FILE)
    return pytester


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_slow_tests_run_only_where_they_are_asked_for(tree, words, expected):
    passed, skipped, failed = tree.inline_run("-p", "tests.conftest", *shlex.split(words)).listoutcomes()
    assert {report.nodeid for report in passed} == expected and not skipped and not failed


def test_workers_select_the_same_tests(tree, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    done = tree.runpytest_subprocess("-p", "tests.conftest", "-n", "2", "a/test_1.py::test_long", "test_2.py")
    done.assert_outcomes(passed=3)
