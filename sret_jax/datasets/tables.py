"""CSV files of a benchmark."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from sret_jax.errors import UserError


def read_csv(path: str | Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header, as `{column: text}`; every one of `columns` must be there.

    Raises `UserError` naming the file and line that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file {str(path)!r}; put it there as its authors published it")
    try:
        with open(path, encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, strict=True)
            lacking = [column for column in columns if column not in (table.fieldnames or ())]
            if lacking:
                raise UserError(f"{path}: no column {lacking[0]!r}; its header is {table.fieldnames}")
            for row in table:
                if None in row or None in row.values():
                    raise UserError(f"{path}, line {table.line_num}: not as many fields as the header has")
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None
