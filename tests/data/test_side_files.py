"""What is passed over in a folder of photographs."""

import pytest

from sret_jax.data.side_files import lies_beside

FILES = [".DS_Store", "._a.jpg", ".picasa.ini", "Thumbs.db", "desktop.ini", "IMG_1.AAE", "IMG_1.MOV", "a.mp4", "a.THM"]


@pytest.mark.parametrize("name", [*FILES, "a.jpg.xmp", ".hidden.jpg"])
def test_side_files_and_hidden_files_are_passed_over(name):
    assert lies_beside(name, False)


@pytest.mark.parametrize("name", ["@eaDir", ".git", "__MACOSX"])
def test_folders_of_systems_are_passed_over(name):
    assert lies_beside(name, True)


@pytest.mark.parametrize(("name", "folder"), [("a.jpg", False), ("notes.txt", False), ("clip.mov", True), ("a", True)])
def test_all_else_is_looked_at(name, folder):
    assert not lies_beside(name, folder)
