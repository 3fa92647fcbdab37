"""CSV files as programs write them and as spreadsheets save them again."""

import csv
import os

import pytest

from sret_jax.datasets import tables
from sret_jax.datasets.tables import csv_columns, from_harmless, harmless, numbered_csv, read_csv
from sret_jax.errors import UserError

ROWS = [{"id": "a", "images": "x, y; z"}, {"id": "ü", "images": ""}]


def written(path, separator=",", encoding="utf-8", start="", end="\r\n"):
    with open(path, "w", encoding=encoding, newline="") as file:
        file.write(start)
        table = csv.DictWriter(file, ["id", "images"], delimiter=separator, lineterminator=end)
        table.writeheader()
        table.writerows(ROWS)
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_encodings_and_ends_of_lines(tmp_path, separator, encoding, end):
    path = written(tmp_path / "x.csv", separator, encoding, end=end)
    assert list(read_csv(path, ("id", "images"))) == ROWS and csv_columns(path) == ["id", "images"]
    told = written(tmp_path / "told.csv", separator, encoding, f"sep={separator}{end}", end)
    assert list(numbered_csv(told, ("id",))) == [(3, ROWS[0]), (4, ROWS[1])]


def test_a_field_of_any_length(tmp_path):
    names = " ".join(f"{i:016x}" for i in range(20_000))
    (tmp_path / "x.csv").write_text(f"id,images\na,{names}\n")
    assert next(read_csv(tmp_path / "x.csv", ("id", "images")))["images"] == names


def test_the_line_that_is_wrong_is_named(tmp_path):
    (tmp_path / "x.csv").write_text('id,images\na,"x\ny"\n\nb,c,d\n')
    with pytest.raises(UserError, match="x.csv, line 5: not as many fields"):
        list(read_csv(tmp_path / "x.csv", ("id",)))
    with pytest.raises(UserError, match=r"no column 'query'; its header is \['id', 'images'\]"):
        list(read_csv(tmp_path / "x.csv", ("query",)))
    with pytest.raises(UserError, match="no file .*none.csv"):
        list(read_csv(tmp_path / "none.csv", ("id",)))
    for data in (b"", b"\n\n", b"\xff\xfeid", b'id,"images', b"id,images\n\xe9,x\n", b'id\n"a'):
        (tmp_path / "x.csv").write_bytes(data)
        with pytest.raises(UserError, match="x.csv"):
            list(read_csv(tmp_path / "x.csv", ("id",)))


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x", "\t=x", "'=x", "''=x", "'x", "x=1", "a-b", ""])
def test_a_harmless_cell_is_read_as_the_name_it_was(name):
    assert harmless(name)[:1] not in tuple("=+-@\t\r")
    assert from_harmless(harmless(name)) == name
    assert harmless(name) == name or harmless(name) == f"'{name}"


def test_lines_and_headers_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_LINE", 1000)
    for data in (b"id,images\na," + b"x" * 2000, b"id,images\n" + b"," * 900, b"id," * 100_000):
        monkeypatch.setattr(tables, "MAX_FIELDS", 100)
        (tmp_path / "x.csv").write_bytes(data)
        with pytest.raises(UserError, match=r"x\.csv"):
            list(read_csv(tmp_path / "x.csv", ("id",)))


def test_a_pipe_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(UserError, match="x.csv: not a regular file"):
        csv_columns(tmp_path / "x.csv")
