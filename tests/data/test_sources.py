"""Photographs of archives, object stores and web servers are those of a folder, by name, content and reason."""

import io
import os
import tarfile

import numpy as np
import pytest

from sret_jax.data import remote
from sret_jax.data.archives import photographs_of
from sret_jax.data.opening import open_photos
from sret_jax.data.sources import source_of
from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable
from sret_jax.storage.tar import list_tar
from tests.support.archives import tar_of
from tests.support.photos import encode_pixels
from tests.support.web_server import web_server

LONG_AGO = 1_700_000_000


@pytest.fixture(scope="module")
def photographs():
    rng = np.random.default_rng(0)
    return {
        f"{folder}/{i}.png": encode_pixels(rng.integers(0, 255, (20 + i, 30, 3), np.uint8))
        for folder in ("arch", "bridge")
        for i in range(3)
    }


@pytest.fixture
def shards(tmp_path, photographs):
    """Two archives in a folder, with what WebDataset puts beside photographs, and one photograph beside them."""
    names = list(photographs)
    for i in range(2):
        own = [(name, photographs[name]) for name in names[i::2]]
        beside = [(name.replace(".png", ".json"), b"{}") for name, _ in own]
        write(tmp_path / f"shards/{i:03d}.tar", tar_of([*own, *beside, ("._x.png", b""), ("readme.txt", b"hello")]))
    write(tmp_path / "shards/alone.png", photographs[names[0]])
    return tmp_path / "shards"


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (LONG_AGO, LONG_AGO))


def stamps(source):
    return {entry.name: entry.stamp for entry in source.entries() if not entry.reason}


def test_a_folder_with_archives_holds_their_members(shards, photographs):
    photos = open_photos(shards)
    expected = [f"00{i}.tar/{name}" for i in range(2) for name in list(photographs)[i::2]]
    assert photos.names == [*expected, "alone.png"]
    assert [photos.source[i]["image"] for i in range(3)] == list(photographs.values())[::2]
    assert photos.instances == ["arch", "bridge"] and photos.labels.tolist() == [0, 0, 1, 0, 1, 1, -1]
    assert photos.sizes[0].tolist() == [20, 30]
    assert [name for name, _ in photos.skipped] == ["000.tar/readme.txt", "001.tar/readme.txt"]


@pytest.mark.parametrize("kept", [True, False])
def test_archives_are_named_by_a_pattern_a_list_or_alone(shards, tmp_path, kept):
    cache = tmp_path / "cache" if kept else None
    whole = open_photos(shards / "*.tar", cache=cache)
    assert len(whole) == 6 and len(os.listdir(shards)) == 3
    same = [open_photos(shards / "{000..001}.tar", cache=cache)]
    if not kept:
        same.append(open_photos([shards / "000.tar", shards / "001.tar"]))
    for photos in same:
        assert (photos.names, photos.digests, photos.fingerprint) == (whole.names, whole.digests, whole.fingerprint)
        assert photos.source[5]["image"] == whole.source[5]["image"]
    alone = open_photos(shards / "001.tar", cache=cache)
    assert alone.names == whole.names[3:] and alone.name == "001"


def test_stamps_stay_until_an_archive_changes(shards, photographs):
    before = stamps(source_of(shards))
    assert stamps(source_of(shards)) == before and all(
        number < 0 for name, (_, number) in before.items() if "tar" in name
    )
    names = list(photographs)
    swapped = [(names[0], photographs[names[2]]), (names[2], photographs[names[0]])]
    write(shards / "000.tar", tar_of(swapped))
    os.utime(shards / "000.tar", (LONG_AGO + 1, LONG_AGO + 1))
    after = stamps(source_of(shards))
    assert {name for name in before if after.get(name) != before[name]} == {
        name for name in before if "000.tar" in name
    }
    os.utime(shards / "000.tar")  # changed this moment: what is in it may change again unnoticed
    assert stamps(source_of(shards))["000.tar/arch/0.png"] != stamps(source_of(shards))["000.tar/arch/0.png"]


def test_a_source_reads_what_its_archives_hold_by_now(shards, photographs):
    source, names = source_of(shards), list(photographs)
    assert source.read("000.tar/arch/0.png") == photographs["arch/0.png"]
    write(shards / "000.tar", tar_of([("new.png", b"new"), (names[0], photographs[names[1]])]))
    assert source.read("000.tar/arch/0.png") == photographs[names[1]]
    with pytest.raises(Unreadable, match="not in its archive"):
        source.read("000.tar/arch/2.png")
    (shards / "000.tar").unlink()
    assert not source.has("000.tar/arch/0.png")


def test_what_is_no_photograph_in_an_archive_is_named(tmp_path, photographs):
    good = photographs["arch/0.png"]
    odd = [
        ("../out.png", good),
        ("/abs.png", good),
        ("a/../b.png", good),
        ("bad.jpg", b"no jpeg"),
        ("./a//ok.png", good),
    ]
    stream = io.BytesIO(tar_of([*odd, ("twice.png", b"first"), ("twice.png", good)]))
    with tarfile.open(fileobj=stream, mode="a") as tar:
        info = tarfile.TarInfo("link.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    write(tmp_path / "x.tar", stream.getvalue())
    photos = open_photos(tmp_path / "x.tar")
    assert photos.names == ["x.tar/a/ok.png", "x.tar/twice.png"] and len(set(photos.digests)) == 1
    outside = "its name is not one below the archive"
    reasons = dict(photos.skipped)
    assert [reasons[f"x.tar/{name}"] for name in ("../out.png", "/abs.png", "a/../b.png")] == [outside] * 3
    assert "not a JPEG" in reasons["x.tar/bad.jpg"] and reasons["x.tar/link.png"] == "a link in its archive"


def test_a_name_that_is_no_text_is_refused_and_side_members_belong_to_their_photograph():
    data = tar_of([("a/1.jpg", b"x"), ("a/1.cls", b"1"), ("a/2.cls", b"2")])
    found = photographs_of(list_tar(lambda start, size: data[start : start + size], len(data)))
    assert list(found) == ["a/1.jpg", "a/2.cls"]
    bad = bytearray(tar_of([("?.jpg", b"x")]))
    bad[0] = 0xFF
    bad[148:156] = f"{sum(bad[:148]) + 8 * 32 + sum(bad[156:512]):06o}\0 ".encode()
    (member,) = photographs_of(list_tar(lambda start, size: bytes(bad[start : start + size]), len(bad))).values()
    assert (member.name, member.reason) == ("\\xff.jpg", "its name is not UTF-8")


def test_an_archive_that_is_cut_off_is_named_and_its_whole_members_are_used(shards):
    whole = (shards / "000.tar").read_bytes()
    write(shards / "000.tar", whole[:3000])
    photos = open_photos(shards)
    assert "000.tar/arch/0.png" in photos.names
    reasons = dict(photos.skipped)
    assert reasons["000.tar"].startswith("cannot be listed to its end: cut off behind 'arch/0.png'")
    write(shards / "packed.tar.gz", b"\x1f\x8b")
    assert dict(open_photos(shards).skipped)["packed.tar.gz"].startswith("a packed archive")


def test_archives_that_are_missing_are_named(shards):
    photos = open_photos(shards / "{000..003}.tar")
    assert dict(photos.skipped) | {"002.tar": "cannot be listed: not there"} == dict(photos.skipped)
    with pytest.raises(UserError, match=r"7..9.*: no such file"):
        open_photos(shards / "{7..9}.tar")
    with pytest.raises(UserError, match="none.tar: no such file"):
        open_photos(shards / "none.tar")


# ---- Elsewhere -----------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(shards):
    """The same files in a store in memory."""
    import fsspec

    files = fsspec.filesystem("memory")
    for path in shards.iterdir():
        files.pipe(f"/bucket-{os.getpid()}/photos/{path.name}", path.read_bytes())
    yield f"memory://bucket-{os.getpid()}/photos"
    files.rm(f"/bucket-{os.getpid()}", recursive=True)


def test_a_store_holds_what_a_folder_holds(bucket, shards, tmp_path):
    here, there = open_photos(shards), open_photos(bucket)
    assert (there.names, there.digests, there.skipped) == (here.names, here.digests, here.skipped)
    assert there.source[0]["image"] == here.source[0]["image"] and there.fingerprint == here.fingerprint
    assert open_photos(f"{bucket}/{{000..001}}.tar").names == here.names[:-1] == open_photos(f"{bucket}/*.tar").names
    kept = open_photos(f"{bucket}/000.tar", cache=tmp_path / "cache")
    assert kept.names == here.names[:3] and kept.source[0]["image"] == here.source[0]["image"]
    (alone,) = open_photos(f"{bucket}/alone.png").digests
    assert alone == here.digests[-1]


def test_archives_of_a_store_are_listed_once(bucket, tmp_path, monkeypatch):
    source = source_of(bucket)
    source.notes = tmp_path / "notes"
    before = stamps(source)
    listed = []
    own = remote.RemoteFolder.opened
    monkeypatch.setattr(remote.RemoteFolder, "opened", lambda self, name: listed.append(name) or own(self, name))
    again = source_of(bucket)
    again.notes = tmp_path / "notes"
    assert stamps(again) == before and not listed
    (first, *_) = (tmp_path / "notes").iterdir()
    first.write_bytes(first.read_bytes()[:-9])  # a damaged note costs time only
    fresh = source_of(bucket)
    fresh.notes = tmp_path / "notes"
    assert stamps(fresh) == before and len(listed) == 1


def test_a_web_server_is_read_in_parts(shards, photographs):
    files = {f"data/{path.name}": path.read_bytes() for path in shards.iterdir()}
    with web_server(files) as served:
        here, there = open_photos(shards), open_photos(f"{served.address}/data/{{000..001}}.tar")
        assert (there.names, there.digests) == (here.names[:-1], here.digests[:-1])
        assert all(asked for path, asked in served.asked if path.endswith(".tar") and asked)
        assert open_photos(f"{served.address}/data").names == here.names
        source = source_of(f"{served.address}/data/000.tar")
        assert stamps(source) == stamps(source_of(f"{served.address}/data/000.tar"))


def test_a_store_that_cannot_be_reached_is_named_and_one_that_stumbles_is_asked_again(shards, monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    with web_server({"a/000.tar": (shards / "000.tar").read_bytes()}) as served:
        source = source_of(f"{served.address}/a/000.tar")
        list(source.entries())
        served.fails = 2
        assert source.read("000.tar/arch/0.png")
        gone = served.address
    with pytest.raises(UserError, match=f"{gone}/a/000.tar: cannot be reached .*network and the credentials") as error:
        open_photos(f"{gone}/a/000.tar")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ftp://host/x", "no known protocol"),
        ("simplecache::s3://bucket/x", "no known protocol"),
        ("https://host/x.tar?token=1", "without \\? and #"),
        ("memory://nothing-here", "not there"),
        ("memory://nothing-here/*.tar", "no file of such a name"),
    ],
)
def test_addresses_that_are_none_are_refused_in_one_line(address, says):
    with pytest.raises(UserError, match=says):
        open_photos(address)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    import fsspec

    def missing(protocol, **_):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(UserError, match=r'needs fsspec and s3fs: pip install "sret_jax\[remote\]"'):
        open_photos("s3://bucket/photos")
