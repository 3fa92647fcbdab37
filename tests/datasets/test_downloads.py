"""Downloads from a server of our own: cut connections, wrong checksums, hostile archives, and what is left on disk."""

import gzip
import hashlib
import http.server
import io
import json
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sret_jax.cli import download as command
from sret_jax.datasets import downloads, sources, unpacking
from sret_jax.datasets.downloads import DONE, download, image_version, sizes
from sret_jax.datasets.sources import SOURCES, PublishedFile
from sret_jax.datasets.unpacking import unpack
from sret_jax.errors import UserError

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()


class Served(http.server.BaseHTTPRequestHandler):
    """`files` by path, with ranges; `cuts` holds after how many bytes each of the next answers breaks off."""

    files: dict[str, bytes]
    cuts: list[int]
    asked: list[str]

    def do_HEAD(self):
        self._head(self.files.get(self.path), 0)

    def do_GET(self):
        data = self.files.get(self.path)
        start = 0
        if data is not None and "Range" in self.headers and self.headers["If-Range"] == _tag(data):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.asked.append(f"{self.path} {start}")
        if self._head(data, start):
            end = start + self.cuts.pop(0) if self.cuts else None
            self.wfile.write(data[start:end])

    def _head(self, data: bytes | None, start: int) -> bool:
        fits = data is not None and (start < len(data) or not start)
        self.send_response(404 if data is None else 416 if not fits else 206 if start else 200)
        if data is not None:
            self.send_header("ETag", _tag(data))
            self.send_header(
                "Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}" if fits else f"bytes */{len(data)}"
            )
            self.send_header("Content-Length", str(len(data) - start if fits else 0))
        self.end_headers()
        return fits

    def log_message(self, *_):
        pass


def _tag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()}"'


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    handler = type("Handler", (Served,), {"files": {}, "cuts": [], "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        handler.url = f"http://127.0.0.1:{running.server_port}"
        yield handler
        running.shutdown()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def archive(members: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in more:
            tar.addfile(info)
    return file.getvalue()


def left(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_cut_connection_is_continued_where_it_broke(tmp_path, server):
    server.files["/list.txt"], server.cuts[:] = CONTENT, [100_000, 50_000]
    download([PublishedFile(f"{server.url}/list.txt", "sub/list.txt", md5(CONTENT))], tmp_path)
    assert (tmp_path / "sub/list.txt").read_bytes() == CONTENT
    assert server.asked == ["/list.txt 0", "/list.txt 100000", "/list.txt 150000"]
    assert left(tmp_path) == {"sub/list.txt", DONE}


def test_a_run_continues_what_an_earlier_one_left(tmp_path, server, monkeypatch):
    monkeypatch.setattr(downloads, "TRIES", 1)
    source = PublishedFile(f"{server.url}/a.bin", "a.bin", md5(CONTENT))
    server.files["/a.bin"], server.cuts[:] = CONTENT, [200_000, 0]
    with pytest.raises(UserError, match="cut after 200000 of 300000 bytes; what has arrived is kept, run again"):
        download([source], tmp_path)
    assert not (tmp_path / "a.bin").exists() and not (tmp_path / DONE).exists()
    download([source], tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and server.asked[-1] == "/a.bin 200000"
    download([source], tmp_path)  # nothing is left to fetch
    assert len(server.asked) == 3
    noted = {"name": "a.bin", "bytes": 300_000, "md5": md5(CONTENT), "checked": "as published"}
    assert json.loads((tmp_path / DONE).read_text()) == {source.url: noted}


def test_a_complete_partial_download_is_kept(tmp_path, server):
    server.files["/a.bin"] = CONTENT
    (tmp_path / ".a.bin.part").write_bytes(CONTENT)
    (tmp_path / ".a.bin.part.version").write_text(_tag(CONTENT))
    download([PublishedFile(f"{server.url}/a.bin", "a.bin", md5(CONTENT))], tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(tmp_path, server):
    server.files["/a.bin"] = CONTENT
    (tmp_path / ".a.bin.part").write_bytes(b"old" * 1000)
    (tmp_path / ".a.bin.part.version").write_text('"of another version"')
    download([PublishedFile(f"{server.url}/a.bin", "a.bin")], tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and server.asked == ["/a.bin 0"]


def test_a_wrong_checksum_is_refused_and_named(tmp_path, server):
    server.files |= {"/a.bin": CONTENT[:-1] + b"x", "/md5.txt": f"{md5(CONTENT)}  a.bin\n".encode()}
    for published in (md5(CONTENT), f"{server.url}/md5.txt"):
        with pytest.raises(UserError, match=f"/a.bin: its md5 is .*, published is {md5(CONTENT)}; it is discarded"):
            download([PublishedFile(f"{server.url}/a.bin", "a.bin", published)], tmp_path)
        assert left(tmp_path) == set()
    server.files["/a.bin"] = CONTENT
    download([PublishedFile(f"{server.url}/a.bin", "a.bin", f"{server.url}/md5.txt")], tmp_path)
    assert left(tmp_path) == {"a.bin", DONE}


def test_what_is_not_there_is_named(tmp_path, server):
    with pytest.raises(UserError, match="/none.tgz: 404 Not Found; fetch it by hand"):
        download([PublishedFile(f"{server.url}/none.tgz", "jpg/")], tmp_path)
    with pytest.raises(UserError, match="not an address of http"):
        download([PublishedFile((tmp_path / "x").as_uri(), "x")], tmp_path)
    assert sizes([PublishedFile(f"{server.url}/none.tgz", "jpg/"), PublishedFile("", "", size=7)]) == [0, 7]


def test_archives_keep_their_folders_or_lose_them(tmp_path, server):
    server.files["/a.tgz"] = archive({"paris/louvre/x.jpg": b"1", "paris/y.jpg": b"2"})
    server.files["/b.tgz"] = archive({"z.jpg": b"3"})
    download(
        [PublishedFile(f"{server.url}/a.tgz", "jpg/", flat=True), PublishedFile(f"{server.url}/b.tgz", "jpg/")],
        tmp_path,
    )
    assert left(tmp_path) == {"jpg/x.jpg", "jpg/y.jpg", "jpg/z.jpg", DONE}
    (tmp_path / "a.tgz").write_bytes(server.files["/a.tgz"])
    unpack(tmp_path / "a.tgz", tmp_path / "deep", "a.tgz", flat=False)
    assert left(tmp_path / "deep") == {"paris/louvre/x.jpg", "paris/y.jpg"}


def linked(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "data",
    [
        archive({"good.jpg": b"1", "../out.jpg": b"2"}),
        archive({"good.jpg": b"1", "a/../../out.jpg": b"2"}),
        archive({"good.jpg": b"1", "/out.jpg": b"2"}),
        archive({"good.jpg": b"1"}, linked("out.jpg", tarfile.SYMTYPE, "/etc/passwd")),
        archive({"good.jpg": b"1"}, linked("out.jpg", tarfile.LNKTYPE, "good.jpg")),
        archive({"good.jpg": b"1"}, linked("out.jpg", tarfile.FIFOTYPE, "")),
    ],
    ids=["parent", "hidden parent", "absolute", "link", "hard link", "device"],
)
@pytest.mark.parametrize("flat", [False, True])
def test_a_hostile_archive_leaves_nothing(tmp_path, server, data, flat):
    server.files["/a.tgz"] = data
    with pytest.raises(
        UserError, match=r"a.tgz: its member '.*out.jpg' is a link, a device, full of holes, or leads out"
    ):
        download([PublishedFile(f"{server.url}/a.tgz", "root/jpg/", flat=flat)], tmp_path / "in")
    assert not [name for name in left(tmp_path) if name.endswith(".jpg")]


def test_an_archive_that_grows_is_refused(tmp_path, monkeypatch):
    zeros = archive({"good.jpg": b"1", "out.jpg": bytes(30_000_000)})
    assert len(zeros) < 100_000
    header = tarfile.TarInfo("long")  # whose content is a name, which is read at once
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 200_000_000
    long = gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(header.size), 1)
    many = archive({f"{i}.jpg": b"" for i in range(20)})
    monkeypatch.setattr(unpacking, "MAX_FILES", 10)
    for data, reason in [
        (zeros, "unpacks to more than . MB or 10 files at its member 'out.jpg'"),
        (many, "or 10 files at its member '10.jpg'"),
        (long, "a header of 200000000 bytes"),
    ]:
        (tmp_path / "a.tgz").write_bytes(data)
        with pytest.raises(UserError, match=reason):
            unpack(tmp_path / "a.tgz", tmp_path / "jpg", "a.tgz", flat=False)
        assert left(tmp_path) == {"a.tgz"}


def test_a_damaged_archive_is_named(tmp_path):
    whole = archive({"a.jpg": CONTENT, "b.jpg": CONTENT})
    flipped = bytearray(whole)
    flipped[-100_000] ^= 1
    plain = gzip.decompress(whole)
    second = bytearray(plain)  # of which the second file's name is damaged, so that its header has a wrong checksum
    second[300_544] ^= 1
    for data in (
        whole[:-5000],
        whole[:-4],
        bytes(flipped),
        bytes(second),
        plain[:400_000],
        plain[: 300_544 + 100],
        plain[:300_544],
        b"",
    ):
        (tmp_path / "a.tgz").write_bytes(data)
        with pytest.raises(UserError, match="a.tgz: cannot be unpacked"):
            unpack(tmp_path / "a.tgz", tmp_path / "jpg", "a.tgz", flat=False)
        assert left(tmp_path) == {"a.tgz"}
    (tmp_path / "a.tgz").write_bytes(plain)
    unpack(tmp_path / "a.tgz", tmp_path / "jpg", "a.tgz", flat=False)
    assert (tmp_path / "jpg/b.jpg").read_bytes() == CONTENT


UNREACHABLE = "http://127.0.0.1:9"  # the port of discard, where nobody answers


@pytest.mark.parametrize("beside", ["", "mine"])
def test_what_lies_there_is_taken_without_a_network(tmp_path, beside):
    folder, own = tmp_path / "data", tmp_path / (beside or "data")
    files = {"paris_1-v1.tgz": archive({"p/x.jpg": b"1"}), "paris_2.tgz": archive({"q/y.jpg": b"2"})}
    files |= {"gnd.pkl": CONTENT, "c.tar": gzip.decompress(archive({"z.jpg": b"3"})), "list.csv": b"id"}
    own.mkdir()
    for name, data in files.items():
        (own / name).write_bytes(data)
    (own / "sums.txt").write_text(
        f"{hashlib.sha256(files['c.tar']).hexdigest()} http://x/c.tar\n{'0' * 64} http://x/d.tar\n"
    )
    asked = [
        PublishedFile(f"{UNREACHABLE}/gnd.pkl", "gnd.pkl", md5(CONTENT)),
        PublishedFile(f"{UNREACHABLE}/list.csv", "sub/list.csv", f"{UNREACHABLE}/other.txt"),
        PublishedFile(f"{UNREACHABLE}/paris_1-v1.tgz", "jpg/", flat=True, older="paris_1.tgz"),
        PublishedFile(f"{UNREACHABLE}/paris_2-v1.tgz", "jpg/", flat=True, older="paris_2.tgz"),
        PublishedFile(f"{UNREACHABLE}/c.tar", "./", f"{UNREACHABLE}/sums.txt"),
    ]
    download(asked, folder, own if beside else "")
    made = {"gnd.pkl", "sub/list.csv", "jpg/x.jpg", "jpg/y.jpg", "z.jpg", DONE}
    assert left(folder) == made | (set() if beside else {*files, "sums.txt"})
    assert {path.name: path.read_bytes() for path in own.iterdir() if path.name in files} == files
    noted = json.loads((folder / DONE).read_text())
    assert [(e["name"], e["bytes"], e["md5"]) for e in noted.values()] == [
        (Path(name).name, len(files[name]), md5(files[name]))
        for name in ("gnd.pkl", "list.csv", "paris_1-v1.tgz", "paris_2.tgz", "c.tar")
    ]
    checked = [entry["checked"] for entry in noted.values()]
    assert checked[0] == checked[4] == "as published" and checked[2] == checked[3] == "no checksum is published"
    assert checked[1].startswith(f"not compared with {UNREACHABLE}/other.txt (")
    assert [e.get("version") for e in noted.values()] == [
        None,
        None,
        "faces blurred, 2022",
        "original",
        "unknown version",
    ]
    download(asked, folder)  # nothing is left to do


@pytest.mark.parametrize(
    ("data", "checksum", "reason"),
    [
        (archive({"good.jpg": b"1", "../out.jpg": b"2"}), "", r"a.tgz: its member '../out.jpg' is a link, a device"),
        (archive({"a.jpg": CONTENT})[:-5000], "", "a.tgz: cannot be unpacked"),
        (archive({"a.jpg": b"1"}), "0" * 32, "a.tgz: its md5 is .*, published is 0*; put the whole file in its place"),
        (archive({"a.jpg": b"1"}), "0" * 64, "a.tgz: its sha256 is .*, published is 0*; put the whole file"),
    ],
    ids=["hostile", "damaged", "another md5", "another sha256"],
)
def test_what_lies_there_and_is_refused_is_kept(tmp_path, data, checksum, reason):
    (tmp_path / "a.tgz").write_bytes(data)
    with pytest.raises(UserError, match=reason):
        download([PublishedFile(f"{UNREACHABLE}/a.tgz", "jpg/", checksum)], tmp_path)
    assert left(tmp_path) == {"a.tgz"} and (tmp_path / "a.tgz").read_bytes() == data


def test_the_version_of_the_photographs_in_words(tmp_path, server, monkeypatch):
    assert image_version(tmp_path) == f"unknown version: no archive is in a {DONE} beside the photographs"
    data = archive({"x.jpg": b"1"})
    of = f"({len(data)} bytes, md5 {md5(data)})"
    server.files |= {"/oxbuild_images-v1.tgz": data, "/gnd.pkl": CONTENT}
    asked = [PublishedFile(f"{server.url}/{name}", "jpg/") for name in ("oxbuild_images-v1.tgz",)]
    download([PublishedFile(f"{server.url}/gnd.pkl", "gnd.pkl"), *asked], tmp_path / "a")
    assert image_version(tmp_path / "a") == f"unknown version: oxbuild_images-v1.tgz {of}"  # another size
    monkeypatch.setitem(sources.BYTES, "oxbuild_images-v1.tgz", len(data))
    download(asked, tmp_path / "b")
    assert image_version(tmp_path / "b") == f"faces blurred, 2022: oxbuild_images-v1.tgz {of}"
    server.files |= {f"/m.{i}.tgz": data for i in range(5)}
    download([PublishedFile(f"{server.url}/m.{i}.tgz", "jpg/") for i in range(5)], tmp_path / "b")
    assert image_version(tmp_path / "b").endswith(f"m.2.tgz {of}, and 2 more archives")
    for text in ("{", '{"a": {"version": "x"}}', "[]", '{"a": 5}'):
        (tmp_path / "b" / DONE).write_text(text)
        assert image_version(tmp_path / "b") == f"unknown version: {DONE} is unreadable"


def test_the_listed_sources_are_consistent():
    for published in SOURCES.values():
        assert len({source.url for source in published}) == len(published)
        for source in published:
            assert source.url.endswith((".tgz", ".tar.gz", ".tar")) == source.is_archive
            assert len(source.checksum) in (0, 32) or source.checksum.startswith("https://")
            assert (source.name in sources.VERSIONS) == (source.older in sources.VERSIONS)
    assert len(SOURCES["revisitop1m"]) == 101 and len(SOURCES["gldv2"]) == 124 and len(SOURCES["gldv2_train"]) == 502


def test_the_command_states_the_size_and_fetches_only_with_yes(tmp_path):
    run = [sys.executable, "-m", "sret_jax.cli.main", "download", "gldv2_train", "data"]
    (tmp_path / "data").mkdir()
    urls = [source.url for source in SOURCES["gldv2_train"]]
    (tmp_path / "data" / DONE).write_text(json.dumps(dict.fromkeys(urls[:2], "0")))
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "500 files, 500.0 GB, to data" in done.stdout and "Give --yes" in done.stdout
    assert "from https://s3.amazonaws.com/google-landmark/train/" in done.stdout
    assert left(tmp_path / "data") == {DONE}


def test_the_command_says_what_lies_there(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/ilias_core.tar").write_bytes(b"")
    run = [sys.executable, "-m", "sret_jax.cli.main", "download", "ilias", "data", "--archives=mine"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        "0 files, 0.0 GB, to data" in done.stdout
        and "1 more lie there already and are not fetched, the first mine/ilias_core.tar" in done.stdout
    )
    done = subprocess.run([*run[:-1], "--archives=other"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "--archives=other: no such folder" in done.stderr


def test_a_disk_that_is_too_small_is_named_first(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "sfm120k", [PublishedFile("http://127.0.0.1:9/x.tar", "x/", size=10**9)])
    monkeypatch.setattr(command.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(UserError, match="1.0 GB are free, 2.0 GB are needed"):
        command.main(["sfm120k", str(tmp_path / "data"), "--yes"])
