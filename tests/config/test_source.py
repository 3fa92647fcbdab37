"""What of a file counts for the digest of a part: what it computes, and nothing else of the file."""

import pytest

from sret_jax.config.source import Unreadable, definition_line, source_digest

TEXT = '''
"""A file."""
import numpy as np

SCALE = 3
OTHER = 4

def helper(x):
    return SCALE * x

def part(x):
    """What it does."""
    return helper(np.sum(x))

def get_config():
    return OTHER
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    return helper(np.sum(x))", "    # a comment\n    return helper(\n        np.sum(x)\n    )"),
        ("What it does.", "What it really does."),
        ("OTHER = 4", "OTHER = 5"),
        ("    return OTHER", "    return OTHER + 1"),
    ],
)
def test_what_does_not_change_what_it_computes_does_not_count(old, new):
    assert old in TEXT and source_digest(TEXT.replace(old, new), "part") == source_digest(TEXT, "part")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("helper(np.sum(x))", "helper(np.max(x))"),
        ("SCALE = 3", "SCALE = 2"),  # two steps away
        ("return SCALE * x", "return x"),
        ("import numpy as np", "import jax.numpy as np"),
        ("def part(x)", "def part(x, y=1)"),
    ],
)
def test_whatever_it_uses_of_its_file_counts(old, new):
    assert old in TEXT and source_digest(TEXT.replace(old, new), "part") != source_digest(TEXT, "part")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("try:\n    import fast\nexcept ImportError:\n    def helper(x): return x", "return x + 1"),
        ("if True:\n    def helper(x): return x", "return x + 1"),
        ("TABLE = {}\nTABLE['a'] = 1\ndef helper(x): return TABLE", "TABLE['a'] = 2"),
        ("TABLE = {}\nTABLE.update(a=1)\ndef helper(x): return TABLE", "update(a=2)"),
    ],
)
def test_what_it_uses_counts_in_whichever_statement_it_is_made(before, after):
    old = {"return x + 1": "return x", "TABLE['a'] = 2": "TABLE['a'] = 1", "update(a=2)": "update(a=1)"}[after]
    text = f"{before}\ndef part(x):\n    return helper(x)\n"
    assert source_digest(text, "part") != source_digest(text.replace(old, after, 1), "part")


def test_the_last_definition_of_a_name_is_the_one():
    again = TEXT + "\ndef part(x):\n    return x\n"
    assert source_digest(again, "part") == source_digest("def part(x):\n    return x\n", "part")
    assert definition_line(TEXT, "part") == 11


@pytest.mark.parametrize(
    ("text", "says"), [("def other(): pass", "defines no 'part' at its top"), ("def part(:", "no Python")]
)
def test_a_text_without_it_is_said(text, says):
    with pytest.raises(Unreadable, match=says):
        source_digest(text, "part")
