"""Archives of strangers: all of their files or none, member by member within limits."""

import os
import tarfile

import pytest

from sret_jax.datasets.unpacking import unpack
from sret_jax.errors import UserError
from tests.support.archives import tar_of


def archive(path, members, packing="", **fields):
    path.write_bytes(tar_of(members, packing, **fields))
    return path


@pytest.mark.parametrize("packing", ["", "gz"])
def test_all_files_come_out(tmp_path, packing):
    path = archive(tmp_path / "a.tar", [("x/1.txt", b"one"), ("x/2.txt", b"two" * 1000)], packing)
    unpack(path, tmp_path / "out", "photos", False)
    assert (tmp_path / "out/x/1.txt").read_bytes() == b"one"
    assert (tmp_path / "out/x/2.txt").read_bytes() == b"two" * 1000


@pytest.mark.parametrize(
    ("members", "fields", "says"),
    [
        ([("../x", b"")], {}, "leads out of the folder"),
        ([("/x", b"")], {}, "leads out of the folder"),
        ([("x", b"")], {"type": tarfile.SYMTYPE, "linkname": "/etc"}, "is a link"),
        ([("x", b"")], {"type": tarfile.GNUTYPE_SPARSE}, "full of holes|cannot be unpacked"),
        ([("x/" * 600 + "y", b"")], {}, "leads out of the folder"),
        ([("x", bytes(20 << 20))], {}, "unpacks to more than"),
        ([(str(i), b"") for i in range(9000)], {}, "unpacks to more than"),  # files of nothing cost something
    ],
)
def test_a_member_that_is_too_much_is_named_and_nothing_stays(tmp_path, members, fields, says):
    path = archive(tmp_path / "a.tar.gz", members, "gz", **fields)
    with pytest.raises(UserError, match=f"photos: .*({says})"):
        unpack(path, tmp_path / "out", "photos", False)
    assert not list((tmp_path / "out").rglob("*")) and {p.name for p in tmp_path.iterdir()} <= {"a.tar.gz", "out"}


def test_a_pipe_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(UserError, match="a.tar: not a regular file; fetch photos again"):
        unpack(tmp_path / "a.tar", tmp_path / "out", "photos", False)
