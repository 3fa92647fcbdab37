"""From a folder of pictures to answers by commands alone."""

import dataclasses
import json
import shutil
from functools import partial

import jsonschema
import numpy as np
import pytest
from PIL import Image
from skimage import data

from sret_jax.cli.status import tell
from sret_jax.collection.answers import Status
from sret_jax.config import Config, DataConfig, ExtractConfig, ModelConfig
from sret_jax.retriever import load
from sret_jax.server.openapi import description
from tests.support.commands import called


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with an untrained retriever, and some pictures with their collection."""
    folder = tmp_path_factory.mktemp("run")
    config = Config(
        data=DataConfig(image_size=64, bucket_ratios=(), threads=1),
        model=ModelConfig(weights="none", stage="c4", whitening=False),
        extract=ExtractConfig(batch_size=4),
    )
    load(config).save(folder / "retriever")
    for name, pixels in (("cat", data.chelsea()), ("cup", data.coffee())):
        for i in range(2):
            path = folder / f"Pictures/{name}/{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[20 * i :, 10 * i :]).resize((120, 80)).save(path)
    (folder / "Pictures/notes.txt").write_text("no photograph")
    return folder


@pytest.fixture
def sret(monkeypatch, capsys, tmp_path, run):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    return partial(called, monkeypatch, capsys)


def test_a_folder_is_indexed_searched_and_changed(sret, tmp_path):
    status, out, _ = sret("index", "Pictures", "--retriever=retriever")
    assert status == 0 and out.startswith(f"Pictures: 4 photographs of {tmp_path / 'Pictures'} (4 added)\n")
    assert "notes.txt: not a" in out
    status, out, _ = sret("search", "cat/0.jpg", "--k=2", "--no-mark")
    assert status == 0 and len(out.splitlines()) == 2 and "cat/1.jpg" in out and "cat/0.jpg" not in out
    shutil.copy("Pictures/cup/0.jpg", "asked.jpg")
    said = sret("search", "asked.jpg", "--region=10,10,60,60", "--json")[1]
    answers = json.loads(said)
    assert answers["query"] == {"width": 120, "height": 80} and len(answers["answers"]) == 3
    assert [json.loads(line.rstrip(",")) for line in said.splitlines()[1:-1]] == answers["answers"]
    schemas = description()["components"]
    jsonschema.validate(answers, schemas["schemas"]["Found"] | {"components": schemas})
    assert answers["object"] is None
    assert len(sret("search", "asked.jpg", "--region=object", "--no-mark")[1].splitlines()) == 3
    _, said, about = sret("search", "asked.jpg", "--region=object", "--no-mark", "--json")
    assert f"object at {','.join(map(str, json.loads(said)['object']))}\n" in about
    assert sret("remove", "cat/1.jpg")[1] == "Pictures: 3 photographs left\n"
    (tmp_path / "Pictures/cup/1.jpg").unlink()
    assert "(1 removed)" in sret("index")[1]
    out = sret("status")[1]
    assert "Pictures: 2 photographs" in out and "taken out: cat/1.jpg" in out and "not used: notes.txt" in out
    assert json.loads(sret("status", "--json")[1])[0]["excluded"] == ["cat/1.jpg"]
    assert sret("remove", "--undo", "cat/1.jpg", "cat/1.jpg")[:2] == (
        0,
        "Pictures: 1 photographs come back with the next `sret index`\n",
    )
    assert "(1 added)" in sret("index")[1]
    assert sret("verify")[:2] == (0, "Pictures: all that is stored of 3 photographs is as it was written\n")


def test_parts_are_indexed_apart_and_merged(sret, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    status, out, _ = sret("index", "Pictures", "--retriever=retriever", "--shard=auto")
    assert status == 0 and out.startswith("1-of-2: ")
    assert "0-of-2" not in out and sret("status")[0] == 2  # a part is not taken for the collection
    assert "not there: 0/2; `sret index PHOTOS --shard=0/2` describes it" in sret("merge", "Pictures")[2]
    assert sret("index", "Pictures", "--retriever=retriever", "--shard=0/2")[0] == 0
    assert sret("merge", "Pictures")[1].startswith("Pictures: 4 photographs of ")
    assert (
        "(nothing new)" in sret("index", "Pictures")[1]
        and len(sret("search", "cat/0.jpg", "--k=3")[1].splitlines()) == 3
    )
    assert "--shard=2/2: give NUMBER/OF" in sret("index", "Pictures", "--shard=2/2")[2]
    assert "are for a folder: give it first" in sret("index", "--shard=0/2")[2]


def test_local_features_are_kept_and_answers_verified(sret):
    sret("index", "Pictures", "--retriever=retriever")
    assert "(4 given local features)" in sret("index", "Pictures", "--local=sift")[1]
    assert "local features: sift" in sret("status")[1] and "nothing new" in sret("index")[1]
    out = sret("search", "cat/0.jpg", "--k=3", "--no-mark", "--verify")[1].splitlines()
    assert [line.split()[2] for line in out][0] == "cat/1.jpg" and int(out[0].split()[1]) >= 10
    answers = json.loads(sret("search", "cat/0.jpg", "--no-mark", "--verify", "--json")[1])["answers"]
    assert [answer["inliers"] for answer in answers] == [int(line.split()[1]) for line in out]
    sret("index", "Pictures", "--local=none")
    assert "local features" not in sret("status")[1]


def test_all_skipped_files_are_named_where_only_one_more_would_not_be(sret, tmp_path):
    for i in range(5):
        (tmp_path / f"Pictures/{i}.txt").write_text("no photograph")
    out = sret("index", "Pictures", "--retriever=retriever")[1]
    assert out.count(": not a ") == 6 and "lists all" not in out
    (tmp_path / "Pictures/6.txt").write_text("no photograph")
    out = sret("index")[1]
    assert out.count(": not a ") == 5 and "lists all" in out


def test_damage_ends_with_one_and_is_mended(sret, tmp_path):
    sret("index", "Pictures", "--retriever=retriever")
    path = next(tmp_path.glob("runs/collections/Pictures/photos-*/descriptors"))
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    status, out, _ = sret("verify")
    assert status == 1 and out.startswith("damaged: cat/0.jpg\n")
    assert sret("verify", "--mend")[0] == 0 and "(1 added)" in sret("index")[1] and sret("verify")[0] == 0


def test_a_mask_is_a_region(sret, tmp_path):
    sret("index", "Pictures", "--retriever=retriever")
    mask = np.zeros((80, 120), np.uint8)
    mask[10:60, 10:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    box, marked = (
        json.loads(sret("search", "cat/0.jpg", f"--region={region}", "--json", "--no-mark")[1])
        for region in ("10,10,60,60", "mask.png")
    )
    assert box == marked


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["search", "cat/0.jpg", "--region=1,2,3"], "give a box"),
        (["search", "cat/0.jpg", "--region=nothing.png"], "give LEFT,TOP,RIGHT,BOTTOM or X,Y or the file of a mask"),
        (["search", "cat/0.jpg", "--region=500,500,600,600"], "no area inside the photograph of 120x80 pixels"),
        (
            ["search", "cat/9.jpg"],
            "cat/9.jpg: no such file, and no photograph of the collection Pictures; did you mean",
        ),
        (["search", "cat/0.jpg", "--k=0"], "at least one answer"),
        (["search", "cat/0.jpg", "--k=many"], "invalid int value: 'many'; see sret search --help"),
        (["search", "cat/0.jpg", "--collection=Picture"], "did you mean 'Pictures'"),
        (["index", "nothing"], "no folder 'nothing'"),
        (["index", "--name=other"], "give it first"),
        (["index", "--local=sift"], "give it first"),
        (["index", "Pictures", "--local=shift"], "did you mean 'sift'"),
        (["search", "cat/0.jpg", "--verify"], "`sret index"),
        (["remove", "cat/9.jpg"], "no photograph 'cat/9.jpg'"),
        (["status", "--workdir=elsewhere"], "no collection in elsewhere; `sret index PHOTOS` makes one"),
        (["search", 300 * "x"], "xxx: no such file, and no photograph"),
        (["search", "~nobody/x.jpg"], "~nobody/x.jpg: no such file, and no photograph"),
        (["search", "cat/0.jpg", "--region=" + 300 * "x"], "give LEFT,TOP"),
        (["index", ""], "give the folder of the photographs"),
        (["index", "Pictures", "--workdir=Pictures/notes.txt"], "notes.txt"),
        (["verify", "--mand"], "unrecognized arguments: --mand"),
    ],
)
def test_mistakes_get_one_line(sret, words, says):
    sret("index", "Pictures", "--retriever=retriever")
    status, _, err = sret(*words)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(lines) == 1 and says in lines[0]


def test_several_collections_have_to_be_named(sret, tmp_path):
    shutil.copytree("Pictures/cat", "cats")
    sret("index", "Pictures", "--retriever=retriever")
    sret("index", "cats", "--retriever=retriever", "--name=felines")
    assert "give --collection= one of Pictures, felines" in sret("search", "0.jpg")[2]
    assert "1.jpg" in sret("search", "0.jpg", "--collection=felines", "--no-mark")[1]
    assert len(sret("index")[1].splitlines()) >= 2 and len(sret("status")[1].splitlines()) == 3


def test_one_collection_that_fails_does_not_stop_the_others(sret, tmp_path):
    shutil.copytree("Pictures/cat", "cats")
    sret("index", "Pictures", "--retriever=retriever")
    sret("index", "cats", "--retriever=retriever", "--name=felines")
    (tmp_path / "runs/collections/Pictures/collection.json").write_text("{garbage")
    shutil.copy("Pictures/cup/0.jpg", "cats/cup.jpg")
    status, out, err = sret("index")
    assert status == 2 and "felines: 3 photographs" in out and "Pictures: " in err and err.count("error: ") == 1
    status, out, err = sret("status")
    assert status == 2 and "felines: 3 photographs" in out
    shutil.copytree("Pictures/cup", "cups")
    assert sret("index", "cups", "--retriever=retriever")[0] == 0


def test_past_the_last_answer_there_are_none(sret):
    sret("index", "Pictures", "--retriever=retriever")
    assert sret("search", "cat/0.jpg", "--start=100") == (0, "", "no answers from 100 on\n")


def test_the_store_and_the_recall_of_an_index_are_told_where_they_were_asked_for(capsys):
    status = Status("cats", "/cats", 30, [], [], False, 0, 0, "", "its own", "tree_ah", 0)
    by_codes = dataclasses.replace(status, store="int8")
    not_yet = dataclasses.replace(by_codes, search="")
    recalled = [dataclasses.replace(own, recall=0.99125) for own in (status, by_codes)]
    tell([status, dataclasses.replace(status, store="float32"), by_codes, not_yet, *recalled], whole=False)
    said = [line for line in capsys.readouterr().out.splitlines() if "search" in line]
    assert said == [
        "  search: tree_ah by int8",
        "  search: by int8",
        "  search: tree_ah, recall@10 0.9912 on its own photographs",
        "  search: tree_ah by int8, recall@10 0.9912 on its own photographs",
    ]
