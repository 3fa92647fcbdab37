"""A journal holds every change that was committed, whole, whatever a kill or another process does meanwhile."""

import pytest

from sret_jax.storage.artifacts import DamagedError
from sret_jax.storage.journal import Journal, append_at

ENTRIES = [{"add": ["a", "é\n\t"]}, {"remove": ["a"]}, {"add": list(range(50))}]


@pytest.fixture
def path(tmp_path):
    journal = Journal(tmp_path / "journal")
    assert journal.read() == []
    for entry in ENTRIES:
        journal.append([entry])
    return journal.path


def test_what_was_appended_is_read(path):
    assert Journal(path).read() == ENTRIES


def test_a_reader_goes_on_where_it_was(path):
    reader, writer = Journal(path), Journal(path)
    assert reader.read() == writer.read() == ENTRIES and reader.read() == []
    writer.append([{"more": 1}, {"more": 2}])
    assert reader.read() == [{"more": 1}, {"more": 2}]


def test_a_kill_at_any_byte_leaves_the_changes_before_it(path):
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        journal = Journal(path)
        assert journal.read() == ENTRIES[: sum(end - 1 <= size for end in ends)]
        journal.append([{"after": size}])
        assert Journal(path).read()[-1] == {"after": size}


@pytest.mark.parametrize("bit", range(8))
def test_a_last_line_counts_whatever_became_of_its_newline(path, bit):
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1 << bit]))
    reader, writer = Journal(path), Journal(path)
    assert reader.read() == writer.read() == ENTRIES and reader.read() == []
    writer.append([{"more": 1}])
    assert reader.read() == [{"more": 1}] and Journal(path).read() == [*ENTRIES, {"more": 1}]


def test_a_reader_meets_a_line_before_its_newline(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    reader = Journal(path)
    assert reader.read() == ENTRIES
    path.write_bytes(whole)
    assert reader.read() == []
    writer = Journal(path)
    writer.read()
    writer.append([{"more": 1}])
    assert reader.read() == [{"more": 1}]


def test_what_cannot_be_written_whole_is_not_left_there(path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="journal"):
        append_at(path, len(before), b"more")
    assert path.read_bytes() == before


@pytest.mark.parametrize("at", [3, 40, -30])
def test_a_changed_byte_is_damage_and_not_passed_over(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="journal: changed since it was written"):
        Journal(path).read()


def test_a_line_that_is_taken_out_is_damage(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(DamagedError):
        Journal(path).read()


def test_append_at_replaces_what_a_killed_writer_left(tmp_path):
    path = tmp_path / "rows"
    append_at(path, 0, b"abcdef")
    append_at(path, 3, b"xy")
    assert path.read_bytes() == b"abcxy"
