"""What is asked of a model: texts, lines and the rows of tables."""
import contextlib
import json
import os
import re
import sys

from data.errors import DataError
from data.tables import SUFFIXES, columns_of, rows_of, text_lines
from data.words import Words

FILES = (".txt", *SUFFIXES)


def argument_rows(texts, names):
    """(columns to keep, input) of texts that are given one after the other."""
    for text in texts:
        if names_a_file(text) or os.path.isfile(text) or os.sep in text and os.path.exists(text):
            raise DataError(f"{text}: give one file, of {' '.join(FILES)}, or -, and no texts beside it")
        if re.fullmatch(r"\S*/\S*\.\w+", text) or text.lower().endswith(FILES):
            print(f"{text}: there is no such file, it is read as a text", file=sys.stderr)
    if names[-1] == "options":
        if len(texts) < 4:
            raise DataError("choose takes an article, a question and at least two options")
        item = (*texts[:2], list(texts[2:]))
        yield dict(zip(names, item)), item
        return
    if len(texts) % len(names):
        raise DataError(f"this task takes {len(names)} texts at a time, {' and '.join(names)}; {len(texts)} given")
    for start in range(0, len(texts), len(names)):
        item = tuple(texts[start:start + len(names)])
        yield dict(zip(names, item)), item


def names_a_file(text):
    """Whether an argument is a file (or -) and no text, which may end like the name of one."""
    return text == "-" or text.lower().endswith(FILES) and (not any(map(str.isspace, text)) or os.path.lexists(text))


def has_lines(name):
    """Whether what a file of that name holds (``-``: standard input) are lines, not the rows of a table."""
    return name == "-" or name.lower().endswith(".txt")


def file_rows(name, names, text=None, text_pair=None, words=False):
    """(columns to keep, input) of each row of a file, or of each line of standard input for ``-``.

    ``text`` and ``text_pair`` are the columns of the first and the second of the texts that ``names`` lists. ``words``: a
    cell may be a JSON list of words, as in the tables that tagging learns from.
    """
    if has_lines(name):
        yield from _line_rows(name, names)
        return
    columns = [given or name for given, name in zip((text, text_pair, None), names)]
    row = None
    for place, row in rows_of(name):
        _check_columns(columns, row, f"{name}: {place}")
        values = [_as_list(row[column]) if words else row[column] for column in columns]
        yield row, tuple(_value(value, wanted == "options", f"{name}: {place}: column '{column}'")
                         for value, column, wanted in zip(values, columns, names))
    if row is None:
        _check_columns(columns, columns_of(name), name)


def fields_of(name, names):
    """The names of what is kept of the rows of a file."""
    return names if has_lines(name) else columns_of(name)


def _check_columns(wanted, there, place):
    for column in wanted:
        if column not in there:
            raise DataError(f"{place}: no column '{column}', there are: {', '.join(there)}; name one with "
                            f"--text{' or --text-pair' * (len(wanted) > 1)}")


def _line_rows(name, names):
    for number, line in enumerate(_standard_input() if name == "-" else text_lines(name), start=1):
        item = tuple(line.split("\t") if len(names) > 1 else [line]) if line.strip() else ("",) * len(names)
        if names[-1] == "options" and line.strip():
            item = (*item[:2], list(item[2:]))
            if len(item[-1]) < 2:
                raise DataError(f"{name}: line {number}: choose takes an article, a question and at least two options, parted "
                                "by tabs")
        if len(item) != len(names):
            raise DataError(f"{name}: line {number}: expected {', '.join(names)}, parted by tabs; texts there: {len(item)}")
        yield dict(zip(names, item)), item


def _as_list(value):
    """What a cell that is a JSON list of words holds, numbers among them; any other value, such as [1], as it is."""
    if isinstance(value, str) and value.strip()[:1] == "[":
        with contextlib.suppress(ValueError, RecursionError):
            items = json.loads(value)
            return items if any(isinstance(item, str) for item in items) else value
    return value


def _value(value, options, place):
    """A cell as a text (a list of words is one), or as a list of options (in a table JSON, or parted by |)."""
    if options and isinstance(value, str) and value.strip():
        try:
            value = json.loads(value) if value.startswith("[") else value
        except ValueError:
            if "|" not in value:
                raise DataError(f"{place}: options are a JSON list, or parted by |") from None
        if isinstance(value, str):
            value = [part.strip() for part in value.split("|")]
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list) or not all(isinstance(part, (str, int, float)) for part in value):
        raise DataError(f"{place} holds {type(value).__name__}, not text")
    texts = [str(part) for part in value]
    return texts if options else Words(" ".join(texts))


def _standard_input():
    """The lines of standard input. Not by ``sys.stdin``: what a thread waits for must not be closed as the process ends."""
    try:
        lines = open(0, "rb", closefd=False)
    except OSError as error:
        raise DataError(f"standard input: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"standard input: line {number}, byte {error.start} of it: not UTF-8") from None
