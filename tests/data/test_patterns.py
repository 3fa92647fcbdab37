"""Braces stand for what they stand for in a shell."""

import subprocess

import pytest

from sret_jax.data.patterns import expanded, is_pattern, split_pattern
from sret_jax.errors import UserError


@pytest.mark.parametrize(
    "pattern",
    ["{000..012}.tar", "{8..11}.tar", "{b,a,c}/{1..2}.tar", "{3..1}", "a{,b}", "{a}", "{}", "{a..}", "x{a,b{1..2}}y"],
)
def test_braces_are_those_of_bash(pattern):
    said = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert sorted(expanded(pattern)) == sorted(said.stdout.splitlines())


def test_a_pattern_has_a_folder_that_all_its_names_lie_below():
    assert split_pattern("/data/shards/{0..9}.tar") == ("/data/shards", "{0..9}.tar")
    assert split_pattern("*.tar") == ("", "*.tar") and split_pattern("/a/b-{1,2}/*.tar") == ("/a", "b-{1,2}/*.tar")
    assert [is_pattern(text) for text in ("a.tar", "{a}.tar", "{a,b}.tar", "*.tar", "[0-9].tar")] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_too_many_names_are_refused_before_they_are_made():
    with pytest.raises(UserError, match="more than 1,000,000 names"):
        expanded("{0..999999999999}/{0..999999999999}.tar")
