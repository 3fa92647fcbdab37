"""Files that anybody may have made are regular, no larger than their kind, and not all holes."""

import os
import socket

import pytest

from sret_jax.errors import UserError
from sret_jax.storage import files
from sret_jax.storage.files import Unreadable, named, read_file


def test_what_is_no_regular_file_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    os.mkfifo("pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for name in ("pipe", "folder", "zero"):
            with pytest.raises(Unreadable, match="not a regular file"):
                read_file(name)
        with pytest.raises(Unreadable, match="cannot be opened"):
            read_file("socket")


def test_a_file_larger_than_its_kind_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "x").write_bytes(b"x" * 11)
    assert read_file(tmp_path / "x", 11) == b"x" * 11
    with pytest.raises(Unreadable, match="larger than 10 bytes"):
        read_file(tmp_path / "x", 10)
    with pytest.raises(Unreadable, match="larger than 64 MiB"), open(tmp_path / "large", "wb") as file:
        file.truncate((64 << 20) + 1)
        read_file(tmp_path / "large")


def test_a_file_of_holes_is_refused_and_one_with_a_few_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "HOLLOW", 1 << 16)
    with open(tmp_path / "holes", "wb") as file:
        file.write(b"head")
        file.truncate(1 << 24)
    with pytest.raises(Unreadable, match="mostly holes: of its 16777216 bytes"):
        read_file(tmp_path / "holes")
    with open(tmp_path / "some", "wb") as file:
        file.write(b"x" * (1 << 20))
        file.truncate(1 << 21)
    assert len(read_file(tmp_path / "some")) == 1 << 21


def test_the_file_and_the_remedy_are_named():
    with pytest.raises(UserError, match=r"^a\.json: cannot be opened: No such file or directory; give another$"):
        with named("a.json", "give another"):
            read_file("a.json")


def test_errors_in_which_a_file_speaks_are_cut():
    text = str(UserError("begin " + "x" * 100_000 + " remedy"))
    assert len(text) < 5000 and text.startswith("begin") and text.endswith("remedy")
