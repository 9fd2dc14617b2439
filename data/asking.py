"""What is asked of a model and what it answers, as rows of text, tables and JSON."""
import contextlib
import csv
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np

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
    columns = [text or names[0], text_pair or names[1 % len(names)], *names[2:]][:len(names)]
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
        parts = line.split("\t") if len(names) > 1 else [line]
        if names[-1] == "options":
            parts = [*parts[:2], parts[2:]]
        if names[-1] == "options" and line.strip() and len(parts[-1]) < 2:
            raise DataError(f"{name}: line {number}: choose takes an article, a question and at least two options, parted by "
                            "tabs")
        if line.strip() and len(parts) != len(names):
            raise DataError(f"{name}: line {number}: expected {', '.join(names)}, parted by tabs; texts there: {len(parts)}")
        item = tuple(parts) if line.strip() else ("",) * len(names)
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


def finished(path, header, size):
    """(whole answers, their length in bytes, the last of them as bytes) in a .jsonl or .csv file that goes on with answers under the names of
    ``header``, or in what is there of a .npy file of embeddings of that ``size``. DataError where it holds anything else."""
    if path.suffix == ".npy":
        return _finished_array(path, size), 0, b""
    rows = end = position = quotes = 0
    first = last = row = b""
    with open(path, "rb") if path.exists() else contextlib.nullcontext(()) as lines:
        for line in lines:
            position += len(line)
            quotes += line.count(b'"') if path.suffix == ".csv" else 0     # within quotes a line end ends no row
            row += line
            if rows == 0:
                first = row
            if line.endswith(b"\n") and quotes % 2 == 0:
                rows, end, last, row = rows + 1, position, row, b""
    begin = io.StringIO()
    if path.suffix == ".csv":
        csv.writer(begin).writerow(header)
    else:
        begin.write("{" + _json(header[0]))
    begin = begin.getvalue().encode()
    last = last if rows > (path.suffix == ".csv") else b""
    if not (first.startswith(begin) or rows == 0 and begin.startswith(first)) or \
            path.suffix == ".jsonl" and not _keys(last) <= set(header):
        raise DataError(f"--output {path}: it holds no answers to this input; name another file")
    return max(rows - (path.suffix == ".csv"), 0), end, last


def _keys(line):
    """The keys of the object on a line, which may be empty; {""} of what is no object."""
    try:
        return set(dict(json.loads(line or b"{}")))
    except (ValueError, TypeError):
        return {""}


def rows_after(rows, done, last, path, fields):
    """What follows the first ``done`` of the rows, whose answers stand in ``path``; DataError where ``last``, the bytes of the
    last of these, is the answer to another row. ``fields``: the columns that are kept."""
    number, kept = 0, {}
    for number, (kept, _) in enumerate(itertools.islice(rows, done), start=1):
        pass
    if last and (number < done or not last.startswith(_beginning(path, kept, fields))):
        raise DataError(f"--output {path}: its answer {done} is not to row {done} of this input; name another file")
    yield from rows


def _beginning(path, kept, fields):
    """The bytes with which an answer begins: the columns that are kept."""
    if path.suffix == ".jsonl":
        return _json(kept)[:-1].encode()
    line = io.StringIO()
    csv.writer(line).writerow([*(_cell(kept.get(name), kept=True) for name in fields), ""])
    return line.getvalue()[:-len("\r\n")].encode()


def _finished_array(path, size):
    if path.exists():
        raise DataError(f"--output {path}: it is whole; --append goes on with an interrupted one")
    body = body_of(path)
    return body.stat().st_size // (4 * size) if body.exists() else 0


def check_output(path, append, source):
    """DataError for a file that answers can't be written into: of no known format, there already, in no folder, or the
    ``source`` of the texts."""
    if path.suffix not in (".jsonl", ".csv", ".npy"):
        raise DataError(f"--output {path}: give it the suffix .jsonl, .csv or .npy")
    if path.exists() and os.path.exists(source) and path.samefile(source):
        raise DataError(f"--output {path}: the texts stand there; name another file")
    if path.exists() and not append:
        raise DataError(f"--output {path}: it exists; --append goes on with it")
    if path.suffix == ".npy" and body_of(path).exists() and not append:
        raise DataError(f"--output {path}: an interrupted run left {body_of(path)}; --append goes on with it, or delete it")
    if not (folder := Path(os.path.realpath(path)).parent).is_dir():
        raise DataError(f"--output {path}: there is no folder {folder}")


def body_of(path):
    """Where the rows of a .npy file gather until their number is known."""
    return path.with_name(path.name + ".part")


def answer_names(columns, fields):
    """{column of the answers: its name beside the ``fields`` of the rows}, one of theirs with ``answer_`` before it."""
    names = {}
    for column in columns:
        names[column] = column
        while names[column] in fields:
            names[column] = f"answer_{names[column]}"
    return names


def write_table(file, answers, header=(), begun=False):
    """Each answer as lines of name and value, for people."""
    for kept, answer in answers:
        row = kept | _plain(answer)
        width = max(map(len, row), default=0)
        for name, value in row.items():
            words = _json(value) if name in kept and isinstance(value, (dict, list)) else _words(value)
            print(f"{name.replace('_', ' '):{width}}  {words}", file=file)
        print(file=file, flush=True)


def write_lines(file, answers, header=(), begun=False):
    for kept, answer in answers:
        print(_json(kept | _plain(answer)), file=file, flush=True)


def write_json(file, answers, header=(), begun=False):
    mark = "["
    for kept, answer in answers:
        print(mark, _json(kept | _plain(answer)), file=file, sep="\n", end="", flush=True)
        mark = ","
    print("[]" if mark == "[" else "\n]", file=file, flush=True)


def write_csv(file, answers, header, begun=False):
    """Rows under ``header``, which a file that has ``begun`` has already; lists and dictionaries are JSON."""
    writer = csv.writer(file)
    if not begun:
        writer.writerow(header)
    for kept, answer in answers:
        row = kept | _plain(answer)
        writer.writerow([_cell(row.get(name), kept=name in kept) for name in header])
        file.flush()


def write_array(path, answers, size, done=0):
    """Embeddings as a .npy file of float32 (rows, size), an empty input's all zero: whole, or FILE.npy.part with the rows
    that there are, of which the first ``done`` stay."""
    temporary, body = path.with_name(path.name + ".tmp"), body_of(path)
    rows = done
    with open(body, "ab") as file:
        file.truncate(4 * size * done)
        for _, answer in answers:
            file.write(np.asarray(answer.get("embedding", np.zeros(size)), "<f4").tobytes())
            file.flush()
            rows += 1
    try:
        with open(temporary, "wb") as file, open(body, "rb") as values:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, size)})
            shutil.copyfileobj(values, file)
        os.replace(temporary, path)
        body.unlink()
    finally:
        temporary.unlink(missing_ok=True)


WRITERS = {"table": write_table, "jsonl": write_lines, "json": write_json, "csv": write_csv}


def _plain(answer):
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in answer.items()}


def _json(value):
    try:
        return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:                                     # JSON has no infinity and no NaN
        return json.dumps(_finite(value), ensure_ascii=False, default=str)


def _finite(value):
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value, kept):
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6f}" if not kept else "" if math.isnan(value) else str(value)
    return _json(value) if isinstance(value, (list, dict, bool)) else str(value)


def _words(value):
    """A value as a person reads it."""
    if isinstance(value, dict):
        if "predictions" in value:
            return ", ".join(f"{guess['token']} {guess['probability']:.3f}" for guess in value["predictions"])
        if {"text", "label", "probability"} <= value.keys():
            return f"{value['text']} ({value['label']} {value['probability']:.3f})"
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items())
    if isinstance(value, list):
        shown = [_words(part) for part in value[:8]]
        return ("; " if value and isinstance(value[0], dict) else ", ").join(shown) + ", ..." * (len(value) > 8)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
