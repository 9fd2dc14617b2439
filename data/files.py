"""Local text files read as a stream of paragraphs, faults named by file, line and byte."""

import csv
import difflib
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import DataError

SUFFIXES = tuple(kind + packing for kind in (".txt", ".jsonl", ".csv") for packing in ("", ".gz", ".zst"))
SUFFIXES += (".parquet",)  # compressed inside
LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
BLOCK_BYTES = 1 << 18
PARAGRAPH_CHARACTERS = 100_000
ROW_BYTES = 100_000_000

Paragraphs = Iterator[tuple[bool, str]]


class LocalFile:
    """A `.txt`, `.jsonl`, `.csv` (also `.gz`, `.zst`) or `.parquet` file; `position` is in bytes on
    disk, of `.parquet` the share of its rows of them."""

    def __init__(self, path: Path, text_field: str, documents: str):
        self.path = path
        self.text_field = text_field
        self.documents = documents
        self.size = path.stat().st_size
        self.modified = path.stat().st_mtime_ns
        self.position = 0

    def fingerprint(self) -> dict:
        settings = {"documents": self.documents} if self.kind == ".txt" else {"text_field": self.text_field}
        return {"path": str(self.path), "size": self.size, "mtime_ns": self.modified} | settings

    @property
    def kind(self) -> str:
        return Path(self.path.name.lower().removesuffix(".gz").removesuffix(".zst")).suffix

    def paragraphs(self) -> Paragraphs:
        self.position = 0
        if self.kind == ".txt":
            yield from self.text_paragraphs()
        else:
            rows = {".jsonl": self.json_rows, ".csv": self.csv_rows, ".parquet": self.parquet_rows}[self.kind]
            for text in rows():
                yield from row_paragraphs(text)
        self.position = self.size

    def text_paragraphs(self) -> Paragraphs:
        starts = at_line_start = True
        for block in self.blocks():
            for line in LINE.findall(block):
                if self.documents == "line" and at_line_start:
                    starts = True
                for paragraph in fold(line):
                    yield starts, paragraph
                    starts = False
                if self.documents == "blank-line" and at_line_start and line.isspace():
                    starts = True
                at_line_start = line[-1] in "\r\n"

    def blocks(self) -> Iterator[str]:
        """Decoded pieces of bounded size, cut at a line end, within a very long line at white space."""
        with self.opened() as (stream, raw):
            line, offset, rest = 1, 0, b""
            while piece := stream.read(BLOCK_BYTES):
                block = rest + piece
                end = block.rfind(b"\n") + 1
                if not end and len(block) >= BLOCK_BYTES:
                    end = block.rfind(b" ") + 1 or last_character(block)
                if end:
                    yield self.decode(block[:end], line, offset)
                    line += block.count(b"\n", 0, end)
                    offset += end
                rest = block[end:]
                self.position = raw.tell()
            if rest:
                yield self.decode(rest, line, offset)

    def lines(self) -> Iterator[str]:
        with self.opened() as (stream, raw):
            offset = 0
            for number, line in enumerate(iter(lambda: stream.readline(ROW_BYTES), b""), start=1):
                if len(line) == ROW_BYTES:
                    raise DataError(f"{self.path}: line {number}: over {ROW_BYTES:,} bytes; give short rows")
                yield self.decode(line, number, offset)
                offset += len(line)
                self.position = raw.tell()

    @contextmanager
    def opened(self) -> Iterator[tuple[io.BufferedIOBase, io.BufferedIOBase]]:
        """The decompressed stream and the file under it."""
        try:
            with open(self.path, "rb") as raw:
                packing = self.path.suffix.lower()
                if packing == ".gz":
                    yield gzip.GzipFile(fileobj=raw), raw
                elif packing == ".zst":
                    import pyarrow  # its reader reports a truncated stream, zstandard's ends silently

                    yield io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd")), raw
                else:
                    yield raw, raw
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.path}: damaged or not what its suffix says: {error}") from error

    def decode(self, block: bytes, line: int, offset: int) -> str:
        """`block` as text; `line` (from 1) and `offset` (bytes, from 0) say where it starts in the text."""
        nul = block.find(b"\0")
        if nul >= 0:
            line += block.count(b"\n", 0, nul)
            raise DataError(f"{self.path}: line {line}, byte {offset + nul}: NUL, a binary file or UTF-16; "
                            "give text in UTF-8")
        try:
            text = block.decode("utf-8")
        except UnicodeDecodeError as error:
            line += block.count(b"\n", 0, error.start)
            raise DataError(f"{self.path}: line {line}, byte {offset + error.start}: not UTF-8 (0x"
                            f"{block[error.start]:02x}); convert it: iconv -f CP1252 -t UTF-8") from None
        return text.removeprefix("\ufeff") if offset == 0 else text

    def json_rows(self) -> Iterator[str]:
        for number, line in enumerate(self.lines(), start=1):
            if not line.strip():
                continue
            row = json_row(line, f"{self.path}: line {number}")
            if self.text_field not in row:
                raise self.missing_field(f"line {number}", row)
            text = row[self.text_field]
            if text is not None and not isinstance(text, str):
                raise DataError(f"{self.path}: line {number}: field '{self.text_field}' is not a string")
            yield text or ""

    def csv_rows(self) -> Iterator[str]:
        csv.field_size_limit(ROW_BYTES)
        reader = csv.reader(self.lines(), strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            if self.text_field not in header:
                check_commas(self.path, header)
                raise self.missing_field("line 1", header)
            check_once(self.path, header, [self.text_field])
            column = header.index(self.text_field)
            for row in reader:
                if row and len(row) != len(header):
                    raise DataError(f"{self.path}: line {reader.line_num}: {len(row)} columns, "
                                    f"the header has {len(header)}")
                if row:
                    yield row[column]
        except csv.Error as error:
            raise not_csv(self.path, reader.line_num, error) from None

    def parquet_rows(self) -> Iterator[str]:
        import pyarrow.parquet

        try:
            file = pyarrow.parquet.ParquetFile(self.path)
            names = file.schema_arrow.names
            if self.text_field not in names:
                raise self.missing_field("columns", names)
            check_once(self.path, names, [self.text_field])
            rows = 0
            for batch in file.iter_batches(64, columns=[self.text_field]):
                yield from column_texts([batch[0].to_pylist()], self.text_field, str(self.path))
                rows += len(batch)
                self.position = self.size * rows // file.metadata.num_rows
        except DataError:
            raise
        except Exception as error:  # pyarrow's faults have no common class
            raise DataError(f"{self.path}: not a readable Parquet file: {first_line(error)}") from error

    def missing_field(self, where: str, fields: Iterable[str]) -> DataError:
        return DataError(f"{self.path}: {where}: no field '{self.text_field}', there are: "
                         f"{', '.join(fields)}; name one with --text-field")


def fold(line: str) -> Iterator[str]:
    """The line as a paragraph, its white space folded; several if it is too long, none if it is blank."""
    text = " ".join(line.split())
    while len(text) > PARAGRAPH_CHARACTERS:
        end = text.rfind(" ", 1, PARAGRAPH_CHARACTERS + 1)
        end = PARAGRAPH_CHARACTERS if end < 0 else end
        yield text[:end]
        text = text[end:].lstrip()
    if text:
        yield text


def row_paragraphs(text: str) -> Paragraphs:
    starts = True
    for line in LINE.findall(text):
        for paragraph in fold(line):
            yield starts, paragraph
            starts = False


def check_once(path: Path, names: list[str], wanted: Iterable[str]):
    """Raise DataError where several columns have a name that is `wanted`."""
    for name in wanted:
        if names.count(name) > 1:
            raise DataError(f"{path}: {names.count(name)} columns are called '{name}'; rename or delete all but one")


def check_commas(path: Path, header: list[str]):
    """Raise DataError where the one cell of a CSV's header holds what parts columns elsewhere."""
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise DataError(f"{path}: line 1: one column '{header[0]}'; the columns of a .csv are parted by commas")


def not_csv(path: Path, number: int, error: csv.Error) -> DataError:
    """The DataError at line `number` in place of one of `csv`, whose advice is for programmers."""
    words = str(error).partition(" - ")[0].replace("new-line character seen in unquoted field",
                                                   "a carriage return that ends no line; lines end in \\n or \\r\\n")
    return DataError(f"{path}: line {number}: not CSV, whose columns are parted by commas: {words}")


def json_row(line: str, place: str, like: str = '{"text": ...}') -> dict:
    """The object on a line of JSONL; DataError at `place` for anything else, with what it is to be `like`."""
    try:
        row = json.loads(line)
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: half of a character (a lone surrogate such as \\ud83d), which is no text") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: expected an object such as {like}")
    return row


def column_texts(batches: Iterable[list], field: str, where: str) -> Iterator[str]:
    """The texts in batches of the values of a column, which may be null, in order."""
    for batch in batches:
        for text in batch:
            if text is not None and not isinstance(text, str):
                raise DataError(f"{where}: column '{field}' holds {type(text).__name__}, not text; "
                                "name another with --text-field")
            if text:
                yield text


def last_character(block: bytes) -> int:
    """Where the last UTF-8 character of `block` starts, in bytes."""
    start = len(block) - 1
    while start > len(block) - 4 and block[start] & 0xC0 == 0x80:
        start -= 1
    return start


def nearest(path: Path) -> str:
    """A hint at the existing entry whose name resembles the first missing component of `path` the most."""
    while not path.parent.is_dir():
        path = path.parent
    close = difflib.get_close_matches(path.name, sorted(os.listdir(path.parent)), n=1, cutoff=0.5)
    return f" (nearest: {path.parent / close[0]})" if close else ""


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
