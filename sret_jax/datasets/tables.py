"""CSV files of a benchmark, and of whoever answers it: as programs write them, and as spreadsheets save them again."""

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sret_jax.errors import UserError
from sret_jax.storage.files import named, open_file

SEPARATORS = (",", ";", "\t")  # a semicolon where the decimal separator is a comma
FORMULA = re.compile(r"'*[=+\-@\t\r]")  # what a spreadsheet computes instead of showing it
MAX_LINE = 64 << 20  # characters; the answers to a query are one field, and Python's own limit is 131,072
MAX_FIELDS = 10_000  # of a line
MAX_HEADER = 1 << 16  # characters
MAX_BYTES = 8 << 30
REMEDY = "give it as its authors published it"
UTF16 = (b"\xff\xfe", b"\xfe\xff")


def harmless(name: str) -> str:
    """A name as a cell that no spreadsheet computes: behind a quote where it begins with `=`, `+`, `-` or `@`."""
    return f"'{name}" if FORMULA.match(name) else name


def from_harmless(cell: str) -> str:
    """Inverse of `harmless`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def read_csv(path: str | Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header, as `{column: text}`; every one of `columns` must be there.

    Fields are separated by commas, semicolons or tabs, the text is UTF-8 or, after a byte-order mark, UTF-16.

    Raises `UserError` naming the file and line that cannot be read.
    """
    return (row for _, row in numbered_csv(path, columns))


def csv_columns(path: str | Path) -> list[str]:
    """The header of a CSV file; the separator is the one that it holds most of."""
    try:
        with _opened(path) as file:
            line = _header(file.readline(MAX_HEADER), file)
            return _fields(line, max(SEPARATORS, key=line.count))
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None


def numbered_csv(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """As `read_csv`, each row with the number of its last line."""
    lacking = [column for column in columns if column not in csv_columns(path)]
    if lacking:
        raise UserError(f"{path}: no column {lacking[0]!r}; its header is {csv_columns(path)}")
    csv.field_size_limit(MAX_LINE)
    before = 0
    try:
        with _opened(path) as file:
            line = file.readline(MAX_HEADER)
            header = _header(line, file)
            before = 1 if header is line else 2
            separator = max(SEPARATORS, key=header.count)
            table = csv.DictReader(
                _lines(file, separator), _fields(header, separator), delimiter=separator, strict=True
            )
            for row in table:
                if None in row or None in row.values():
                    raise UserError(f"{path}, line {before + table.line_num}: not as many fields as the header has")
                yield before + table.line_num, row
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[io.TextIOWrapper]:
    if not Path(path).exists():
        raise UserError(f"no file {str(path)!r}; put it there as its authors published it")
    with named(path, REMEDY), open_file(path, MAX_BYTES) as file:
        utf16 = file.read(2) in UTF16
        file.seek(0)
        yield io.TextIOWrapper(file, encoding="utf-16" if utf16 else "utf-8-sig", newline="")


def _lines(file: io.TextIOWrapper, separator: str) -> Iterator[str]:
    """The lines, of which none is read that is longer than any can be."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE or line.count(separator) > MAX_FIELDS:
            raise csv.Error(f"a line of more than {MAX_LINE} letters or {MAX_FIELDS} fields")
        yield line


def _header(line: str, file: io.TextIOWrapper) -> str:
    """The first line, or the one after `sep=;`, which tells a spreadsheet the separator."""
    return file.readline(MAX_HEADER) if line.lower().startswith("sep=") else line


def _fields(line: str, separator: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=separator, strict=True), [])]
