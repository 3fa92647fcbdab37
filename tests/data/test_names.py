"""A name means one file however its accents are written."""

import unicodedata

import pytest

from sret_jax.data.names import RowsByName, composed, on_disk
from sret_jax.errors import UserError

ONE, TWO = (unicodedata.normalize(form, "caf\u00e9.jpg") for form in ("NFC", "NFD"))
THIRD = "\u1e69", "s\u0323\u0307", "s\u0307\u0323"  # one letter with two marks: composed, and in either order


def test_both_forms_are_one_name():
    assert ONE != TWO and composed(ONE) == composed(TWO) == ONE
    for own, other in ((ONE, TWO), (TWO, ONE)):
        rows = RowsByName(["a.jpg", own])
        assert rows[own] == rows[other] == 1 and other in rows and rows.get("b.jpg") is None
        assert "cafe.jpg" not in rows and len(rows) == 2 and list(rows) == ["a.jpg", own]
        with pytest.raises(KeyError):
            rows["cafe.jpg"]


def test_two_names_that_differ_in_nothing_else_stay_two():
    rows = RowsByName([ONE, TWO])
    assert (rows[ONE], rows[TWO]) == (0, 1)
    rows = RowsByName(THIRD[:2])
    with pytest.raises(UserError, match=r"fits 2 names .*u1e69.*u0323.*rename one of them"):
        rows[THIRD[2]]


def test_a_file_is_found_by_the_name_that_the_disk_has(tmp_path):
    folder = tmp_path / unicodedata.normalize("NFD", "\u00e9t\u00e9")
    folder.mkdir()
    (folder / TWO).write_bytes(b"x")
    given = "\u00e9t\u00e9/" + ONE
    assert on_disk(tmp_path, given) == folder / TWO
    assert on_disk(tmp_path, str(tmp_path / given)) == folder / TWO
    assert on_disk(tmp_path, "\u00e9/x") == tmp_path / "\u00e9/x"
    assert on_disk(tmp_path, "plain.jpg") == tmp_path / "plain.jpg"
    (folder / ONE).write_bytes(b"y")
    assert on_disk(folder, ONE).read_bytes() == b"y" and on_disk(folder, TWO).read_bytes() == b"x"
