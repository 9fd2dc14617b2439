"""Rows of table files (.csv, .tsv, .jsonl, .parquet), faults named by file and line."""
import contextlib
import csv
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from data.errors import DataError
from data.files import LocalFile, check_commas, check_once, first_line, json_row, nearest, not_csv

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


class Table:
    """The rows of a file as dictionaries, with the place of each.

    columns: their names. rows: [(place, {column: value})], where a place is like "line 3".
    Raises DataError for a file that is missing, of no known format, damaged, ragged or empty.
    """

    def __init__(self, path):
        self.path = existing(path)
        self.rows = list(rows_of(path))
        if not self.rows:
            raise DataError(f"{path}: no rows in it")
        self.columns = list(dict.fromkeys(name for _, row in self.rows for name in row))

    def column(self, name, flag):
        """The values of a column; ``flag`` is the option that chooses another one."""
        if name not in self.columns:
            raise DataError(f"{self.path}: no column '{name}', there are: {', '.join(self.columns)}; "
                            f"name one with {flag}")
        return [row.get(name) for _, row in self.rows]

    def place(self, index):
        """Where row ``index`` stands, for a message."""
        return f"{self.path}: {self.rows[index][0]}"


def rows_of(path) -> Iterator[tuple[str, dict]]:
    """(place, row) of each row of a table file, one at a time; see `Table`."""
    return itertools.islice(_reader(path), 1, None)


def columns_of(path) -> list[str]:
    """The names of a table file's columns; of .jsonl, whose rows may differ, all up to the first faulty line."""
    reader = _reader(path)
    columns = next(reader)
    if columns is None:
        columns = {}
        with contextlib.suppress(DataError):
            for _, row in reader:
                columns |= dict.fromkeys(row)
    return list(columns)


def _reader(path):
    """The names of the columns, None where rows may differ, and then the rows."""
    path = existing(path)
    read = {".csv": _delimited, ".tsv": _tabbed, ".jsonl": _json_lines, ".parquet": _parquet}.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path}: unknown suffix '{path.suffix}'; known are {' '.join(SUFFIXES)}")
    return read(path)


def existing(path) -> Path:
    """``path`` where it is a file; DataError, with the nearest name, where it is not."""
    path = Path(os.path.expanduser(path))
    try:
        if path.is_dir():
            raise DataError(f"{path}: a folder; name a file in it")
        if not path.is_file():
            raise DataError(f"{path}: " + ("not a regular file" if path.exists() else f"no such file{nearest(path)}"))
    except OSError as error:                                 # its name is too long, for example
        raise DataError(f"{str(path)[:80]}: {error.strerror}") from None
    return path


def text_lines(path) -> Iterator[str]:
    """The lines of a UTF-8 text file without their ends. DataError names the line of a wrong byte."""
    return (line.rstrip("\r\n") for line in LocalFile(existing(path), "", "file").lines())


def _delimited(path):
    csv.field_size_limit(1 << 27)
    reader = csv.reader(LocalFile(path, "", "file").lines(), strict=True)
    try:
        header = _header(path, next(reader, []))
        check_commas(path, header)
        yield header
        for cells in reader:
            if cells or len(header) == 1:          # of one column, a blank line is an empty cell
                yield f"line {reader.line_num}", _row(path, reader.line_num, header, cells or [""])
    except csv.Error as error:
        raise not_csv(path, reader.line_num, error) from None


def _tabbed(path):
    lines = enumerate(text_lines(path), start=1)
    _, header = next(lines, (1, ""))
    header = _header(path, header.split("\t"))
    yield header
    for number, line in lines:
        if line or len(header) == 1:
            yield f"line {number}", _row(path, number, header, [_unquoted(cell) for cell in line.split("\t")])


def _unquoted(cell):
    """A cell as it was before pandas, csv or Excel put it in quotes, which they do where it holds one."""
    return cell[1:-1].replace('""', '"') if re.fullmatch('"(?:[^"]|"")*"', cell) and '""' in cell[1:-1] else cell


def _header(path, cells):
    """The names of the columns; one without gets its number, in words that no other has."""
    if not any(cells):
        raise DataError(f"{path}: line 1: no names of columns; the file is empty, or its first line is")
    header = [cell.strip() for cell in cells]
    for number, name in enumerate(header, start=1):
        if not name:
            name = f"column {number}"
            while name in header:
                name = f"unnamed {name}"
            header[number - 1] = name
    check_once(path, header, header)
    return header


def _row(path, number, header, cells):
    if len(cells) != len(header):
        raise DataError(f"{path}: line {number}: {len(cells)} columns, the header has {len(header)}")
    return dict(zip(header, cells))


def _json_lines(path):
    yield None
    for number, line in enumerate(text_lines(path), start=1):
        if line.strip():
            yield f"line {number}", json_row(line, f"{path}: line {number}")


def _parquet(path):
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        check_once(path, file.schema_arrow.names, filter(None, file.schema_arrow.names))
        yield file.schema_arrow.names
        rows = (row for batch in file.iter_batches(1000) for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"row {number}", row
    except DataError:
        raise
    except Exception as error:              # pyarrow's faults, and those of values that Python cannot have, differ
        raise DataError(f"{path}: not a readable Parquet file: {first_line(error)}") from error
