"""The published list of tuples, in miniature; whatever else the file holds is refused."""

import numpy as np
import pytest

from sret_jax.datasets.sfm120k import prepare_sfm
from sret_jax.errors import UserError
from tests.support import photo_files as files
from tests.support.sfm120k import IDS, TABLE, write


def test_photographs_models_and_pairs_are_those_of_the_list(tmp_path):
    root = write(tmp_path / "sfm", TABLE)
    photos = prepare_sfm(root, tmp_path / "cache", split="train")
    assert photos.name == "retrieval-SfM-120k:train" and photos.names == IDS and not photos.skipped
    assert [photos.instances[label] for label in photos.labels] == ["4", "4", "4", "11", "11", "2", "2", "30"]
    np.testing.assert_array_equal(photos.pairs, [[0, 1], [1, 2], [3, 4], [5, 6]])
    assert files.corners(photos.photo(3))[0][0] > 150  # red
    np.testing.assert_array_equal(prepare_sfm(root, tmp_path / "cache", split="val").pairs, [[3, 4]])


def test_a_photograph_that_is_missing_costs_its_pairs(tmp_path, caplog):
    root = write(tmp_path / "sfm", TABLE, missing=[IDS[2], IDS[3]])
    photos = prepare_sfm(root, tmp_path / "cache", split="train")
    assert photos.names == [cid for i, cid in enumerate(IDS) if i not in (2, 3)]
    np.testing.assert_array_equal(photos.pairs, [[0, 1], [3, 4]])
    assert "2 photographs skipped" in caplog.text
    assert [photos.names[row] for row in photos.pairs[1]] == [IDS[5], IDS[6]]


class Runs:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cids": [*IDS[:7], "../../../../etc/passwd"]}, "is no id of a photograph"),
        ({"cids": [*IDS[:7], IDS[0]]}, "an id is there twice"),
        ({"cluster": [1]}, "differ in length"),
        ({"qidxs": [0, 1, 3, 8]}, "no position of a photograph"),
        ({"qidxs": [0, 1, 3, True]}, "no position of a photograph"),
        ({"pidxs": None}, "no list 'pidxs'"),
        ({"cluster": [0.5] * 8}, "a model is no number"),
        ({"more": Runs()}, "refused"),
    ],
)
def test_a_list_that_is_not_as_published_is_refused(tmp_path, change, text, capsys):
    root = write(tmp_path / "sfm", TABLE | change)
    with pytest.raises(UserError, match=text):
        prepare_sfm(root, tmp_path / "cache", split="train")
    assert "executed" not in capsys.readouterr().out


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="0 files retrieval-SfM"):
        prepare_sfm(tmp_path, tmp_path / "cache", split="train")
    root = write(tmp_path / "sfm", TABLE, missing=IDS[1::2])
    with pytest.raises(UserError, match="no split 'test'.*known: train, val"):
        prepare_sfm(root, tmp_path / "cache", split="test")
    root = write(tmp_path / "few", TABLE | {"qidxs": [0], "pidxs": [1]}, missing=[IDS[1]])
    with pytest.raises(UserError, match="of no pair both photographs can be read"):
        prepare_sfm(root, tmp_path / "cache", split="train")
    root = write(tmp_path / "none", TABLE, missing=IDS)
    with pytest.raises(UserError, match="train: none of 8 photographs can be read; complete .*ims"):
        prepare_sfm(root, tmp_path / "cache", split="train")
