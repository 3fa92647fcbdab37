"""Too few file descriptors are no fault of a photograph: none is skipped or called damaged because of them."""

import errno
import os

import pytest

import sret_jax
from sret_jax.data import apart
from sret_jax.data.decoding import PhotoRejected, decode_photo
from sret_jax.data.folders import prepare_folders
from sret_jax.errors import UserError
from sret_jax.storage.refusals import plainly, refusal_behind
from tests.support.photos import write_photos


@pytest.fixture
def exhausted(monkeypatch):
    """Opening the third photograph, and every one after it, finds no descriptor left."""
    opened, opens = [], os.open

    def limited(path, *rest, **named):
        if str(path).endswith((".jpg", ".png")):
            opened.append(path)
            if len(opened) > 2:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return opens(path, *rest, **named)

    monkeypatch.setattr(apart._processes, "none_start", True)  # as none does where descriptors are too few
    monkeypatch.setattr(os, "open", limited)
    return monkeypatch


def test_no_photograph_is_skipped_for_want_of_descriptors(tmp_path, exhausted):
    root = write_photos(tmp_path / "photos")
    with pytest.raises(UserError, match=f"{root}/.*: Too many open files; raise the limit of open files"), plainly():
        prepare_folders(str(root), tmp_path / "cache")
    with pytest.raises(UserError, match=f"{root}/.*: Too many open files; raise the limit of open files"), plainly():
        sret_jax.open_photos(str(root))
    exhausted.undo()
    assert len(prepare_folders(str(root), tmp_path / "cache")) == 12


def test_no_folder_is_left_out_for_want_of_descriptors(tmp_path, monkeypatch):
    root = write_photos(tmp_path / "photos")
    scan = os.scandir

    def limited(path):
        if os.fspath(path).endswith("1"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", limited)
    with pytest.raises(UserError, match="tower 1: Too many open files; raise"), plainly():
        prepare_folders(str(root), tmp_path / "cache")


def test_a_reader_that_cannot_be_loaded_is_no_damage(monkeypatch, tmp_path):
    data = next(write_photos(tmp_path / "photos").glob("*/*")).read_bytes()

    def unloaded(*_):
        raise ImportError("libjpeg.so: cannot open shared object file: Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("sret_jax.data.decoding._open", unloaded)
        with pytest.raises(UserError, match="Too many open files; raise the limit") as raised, plainly():
            decode_photo(data)
    assert not isinstance(raised.value, PhotoRejected)
    with pytest.raises(PhotoRejected):
        decode_photo(data[: len(data) // 2])


def test_a_place_for_temporary_files_that_is_full_has_a_remedy():
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']")
    assert str(refusal_behind(error, "/x")) == (
        "No usable temporary directory found in ['/tmp', '/var/tmp']; free space in one of these folders, or set "
        "TMPDIR to another"
    )
