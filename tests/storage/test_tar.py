"""What an archive's headers say is what Python's `tarfile` reads, and damage anywhere is named."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sret_jax.storage.files import Unreadable
from sret_jax.storage.tar import BLOCK, MAX_EXTENDED, list_tar, read_member
from tests.support.archives import tar_of

FORMS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
NAME = st.text("ab/ü.😀 ", min_size=1, max_size=120).filter(lambda name: not name.endswith("/"))
NAMES = st.lists(NAME, min_size=1, max_size=5, unique=True)


def listing(data):
    return list_tar(lambda start, size: data[start : start + size], len(data))


def archive(members, form):
    """(name, content, kind) as `tarfile` writes them."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form, encoding="utf-8") as tar:
        for name, data, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(data) if kind == tarfile.REGTYPE else 0
            info.linkname = "elsewhere" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@settings(max_examples=30, deadline=None)
@given(NAMES, st.integers(0, 1500), st.sampled_from(FORMS))
def test_members_are_those_that_tarfile_reads(names, size, form):
    contents = [bytes([65 + i]) * (size + i) for i in range(len(names))]
    try:
        data = archive([(name, own, tarfile.REGTYPE) for name, own in zip(names, contents, strict=True)], form)
    except ValueError:  # a name that the old form cannot hold
        return
    found = listing(data)
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8") as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar if info.isreg()]
    assert [(own.name, own.at, own.size) for own in found.members] == expected and not found.problem
    read = [read_member(lambda start, n: data[start : start + n], own) for own in found.members]
    assert read == contents


@pytest.mark.parametrize("form", FORMS)
def test_links_and_devices_have_a_reason_and_folders_are_none(form):
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.REGTYPE]
    found = listing(archive([(f"{i}", b"abc", kind) for i, kind in enumerate(kinds)], form))
    link, odd = "a link in its archive", "not a regular file in its archive"
    assert [own.reason for own in found.members] == [link, link, odd, odd, ""] and not found.problem


def test_every_cut_is_named_and_what_is_whole_before_it_is_listed():
    data = archive([("a.jpg", b"1" * 700, tarfile.REGTYPE), ("b" * 150, b"2" * 30, tarfile.REGTYPE)], FORMS[1])
    whole = listing(data).members
    assert [own.size for own in whole] == [700, 30]
    end = whole[-1].at + BLOCK
    for cut in [*range(0, end + 1, 64), whole[0].at + 699, whole[1].at + 29, end]:
        found = listing(data[:cut])
        there = [own for own in whole if own.at + own.size <= cut]
        assert found.members == there and found.problem, cut
    assert "cut off in 'a.jpg'" in listing(data[:800]).problem and "behind 'a.jpg'" in listing(data[:1600]).problem


def test_a_damaged_header_ends_the_list_and_is_named():
    data = bytearray(tar_of([("a", b"x"), ("b", b"y")]))
    data[2 * BLOCK + 3] ^= 1
    found = listing(bytes(data))
    assert [own.name for own in found.members] == ["a"] and found.problem == "damaged, or no tar archive behind 'a'"
    assert listing(b"\xff\xd8\xff" * 1000).problem == "damaged, or no tar archive at its beginning"
    assert listing(b"").problem == "empty at its beginning"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_damage_raises_or_asks_for_much(data):
    whole = bytearray(
        archive(
            [(f"{'long' * 40}/ü{i}.jpg", b"x" * 20, tarfile.REGTYPE) for i in range(2)],
            data.draw(st.sampled_from(FORMS[1:])),
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))

    def read(start, size):
        assert 0 <= start and 0 <= size <= MAX_EXTENDED
        return bytes(whole[start : start + size])

    found = list_tar(read, len(whole))
    assert all(own.at + (0 if own.reason else own.size) <= len(whole) for own in found.members)


def test_headers_before_a_member_are_few_and_short():
    name = tar_of([("x" * 150, b"")])[: 2 * BLOCK]  # a long name, and its text
    assert listing(name * 20 + bytes(2 * BLOCK)).problem.startswith("damaged")
    huge = tar_of([("x", b"")], type=b"L", size=0)
    info = tarfile.TarInfo("x")
    info.type, info.size = b"L", MAX_EXTENDED + 1
    assert huge and listing(info.tobuf(tarfile.GNU_FORMAT)).problem.startswith("damaged")


def test_an_archive_that_became_another_one_is_noticed():
    data = tar_of([("a", b"one")])
    (member,) = listing(data).members
    other = tar_of([("b", b"two")])
    with pytest.raises(Unreadable, match="its archive changed while it was read"):
        read_member(lambda start, size: other[start : start + size], member)
