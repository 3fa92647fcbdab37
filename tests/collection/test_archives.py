"""Collections of photographs in archives and stores are what collections of folders are, bit for bit."""

import os

import pytest
from skimage import data

from sret_jax.cli import index, merge
from sret_jax.collection import update as updating
from sret_jax.collection.collection import Collection
from sret_jax.collection.shard import Shard
from sret_jax.config import Config, DataConfig, ExtractConfig, ModelConfig
from sret_jax.data import remote
from sret_jax.errors import UserError
from sret_jax.retriever import load
from tests.support.archives import tar_of
from tests.support.photos import encode_pixels, write_bytes_long_ago

CONFIG = Config(
    data=DataConfig(image_size=96, threads=1),
    model=ModelConfig(weights="none", stage="c4", whitening=False),
    extract=ExtractConfig(batch_size=4),
)
SCENES = {"cat": data.chelsea(), "cup": data.coffee(), "rocket": data.rocket()}
SHARDS = 6


@pytest.fixture(scope="module")
def retriever():
    return load(CONFIG)


@pytest.fixture(scope="module")
def photographs():
    return {
        f"{name}/{i}.png": encode_pixels(pixels[8 * i : 200 : 2, 16 * i : 300 : 2])
        for name, pixels in SCENES.items()
        for i in range(4)
    }


@pytest.fixture
def shards(tmp_path, photographs):
    """Archives of two photographs each, of which the last holds something else too."""
    members = list(photographs.items())
    for i in range(SHARDS):
        odd = [("odd.jpg", b"no photograph")] if i == SHARDS - 1 else []
        write_bytes_long_ago(tmp_path / f"shards/{i:02d}.tar", tar_of(members[i::SHARDS] + odd))
    return tmp_path / "shards"


@pytest.fixture
def bucket(shards):
    import fsspec

    files, place = fsspec.filesystem("memory"), f"/collected-{os.getpid()}"
    for path in shards.iterdir():
        files.pipe(f"{place}/photos/{path.name}", path.read_bytes())
    yield f"memory:/{place}/photos"
    files.rm(place, recursive=True)


def opened(root, workdir, retriever, **given):
    collection = Collection.open(root, workdir=workdir, retriever=retriever, **given)
    collection._retriever = retriever  # compiled already
    return collection


def rows(collection):
    """What is stored of each photograph, by the name it has in its archive."""
    store = collection._view.store
    return {
        name.partition(".tar/")[2]: (store.state.photos[row].digest, store.descriptor(row).tobytes())
        for name, row in store.state.live.items()
    }


def test_archives_are_described_searched_and_read_as_a_folder_is(shards, bucket, tmp_path, retriever, photographs):
    for name, own in photographs.items():
        write_bytes_long_ago(tmp_path / "plain/x.tar" / name, own)  # a folder whose name ends as that of an archive
    answers = []
    found = []
    for root in (tmp_path / "plain", shards, bucket, f"{bucket}/*.tar"):
        collection = opened(root, tmp_path / "kept", retriever)
        done = collection.update()
        assert len(done.added) == len(photographs) and not collection.update().added
        found.append(rows(collection))
        name = next(name for name in collection.names if name.endswith("cat/1.png"))
        assert collection.read(name) == photographs["cat/1.png"]
        searched = collection.search(name, (20, 20, 90, 90), k=4)
        answers.append([(own.name.partition(".tar/")[2], own.score, own.found, own.box) for own in searched.answers])
        assert collection.object_in(name)
    assert found[0] == found[1] == found[2] == found[3] and answers[0] == answers[1] == answers[2] == answers[3]
    assert collection.root == f"{bucket}/*.tar" and collection.status().skipped[0][0] == "05.tar/odd.jpg"
    assert Collection(collection.folder).root == f"{bucket}/*.tar"


def test_only_what_changed_is_read_and_only_what_is_new_described(
    shards, tmp_path, retriever, photographs, monkeypatch
):
    collection = opened(shards, tmp_path / "kept", retriever)
    collection.update()
    read, own = [], updating.read_photo
    monkeypatch.setattr(updating, "read_photo", lambda file, **rest: (read.append(file.name), own(file, **rest))[1])
    assert not collection.update().anything and not read
    members = list(photographs.items())[1::SHARDS]
    new = encode_pixels(SCENES["rocket"][40:140, 100:260])
    write_bytes_long_ago(shards / "01.tar", tar_of([*members[1:], ("new.png", new)]))
    (shards / "00.tar").rename(shards / "renamed.tar")
    done = collection.update()
    assert "01.tar/new.png" in done.added and done.reused == 2
    assert sorted(read) == sorted([f"01.tar/{members[1][0]}", "01.tar/new.png", *(n for n in read if "renamed" in n)])
    assert [before.partition("/")[2] for before, _ in done.renamed] == [
        name.partition("/")[2] for _, name in done.renamed
    ]
    assert len(done.renamed) == 2 and f"01.tar/{members[0][0]}" in done.removed


def test_an_archive_that_is_cut_off_loses_no_photograph(shards, tmp_path, retriever):
    collection = opened(shards, tmp_path / "kept", retriever)
    collection.update()
    names = collection.names
    whole = (shards / "02.tar").read_bytes()
    write_bytes_long_ago(shards / "02.tar", whole[: len(whole) // 4])
    done = collection.update()
    assert not done.removed and collection.names == names
    assert [name for name, _ in done.skipped] == ["02.tar"] and "cut off" in dict(done.skipped)["02.tar"]
    write_bytes_long_ago(shards / "02.tar", whole)
    assert not collection.update().anything and "02.tar" not in dict(collection.status().skipped)


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_shards_of_archives_merge_to_the_collection_of_one_process(
    shards, bucket, tmp_path, retriever, where, monkeypatch
):
    root, listed = shards if where == "here" else bucket, []
    whole = opened(root, tmp_path / "kept", retriever, name="whole")
    whole.update()
    whole.compact()
    own = remote.RemoteFolder.opened
    monkeypatch.setattr(remote.RemoteFolder, "opened", lambda self, name: listed.append(name) or own(self, name))
    for number in range(3):
        part = opened(root, tmp_path / "kept", retriever, name="parts", shard=f"{number}/3")
        part.update()
        assert {name.partition("/")[0] for name in part.names} <= {f"{i:02d}.tar" for i in range(SHARDS)}
        assert all(Shard(number, 3).has(name.partition("/")[0]) for name in part.names)
    assert len(listed) == (0 if where == "here" else SHARDS)  # each by one shard
    merged = Collection.merge(root, workdir=tmp_path / "kept", name="parts")
    files = [{path.name: path.read_bytes() for path in own.folder.glob("photos-*/*")} for own in (whole, merged)]
    assert files[0] == files[1]
    merged._retriever = retriever
    assert not merged.update().anything and len(listed) in (0, SHARDS)


def test_a_store_that_is_gone_forgets_nothing_and_ends_in_one_line(bucket, tmp_path, retriever, monkeypatch, capsys):
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    retriever.save(tmp_path / "run")
    words = [bucket, f"--workdir={tmp_path / 'kept'}", f"--retriever={tmp_path / 'run'}", "--name=all"]
    index.main(words)
    assert f"all: 12 photographs of {bucket} (12 added)" in capsys.readouterr().out

    def unreachable(*_, **__):
        raise ConnectionError("no route\nto host")

    import fsspec

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "ls", unreachable)
    with pytest.raises(UserError, match=r"cannot be reached \(no route to host\)"):
        index.main(words[:2])
    with pytest.raises(UserError, match="no shards there"):
        merge.main(words[:2])
    assert Collection(tmp_path / "kept/all").status().photos == 12
