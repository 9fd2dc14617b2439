"""What is asked of a model and what it answers, as rows of text, tables and JSON."""
import csv
import json
import os
import shutil
import sys

import numpy as np

from data.errors import DataError
from data.tables import rows_of, text_lines

FILES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")


def argument_rows(texts, names):
    """(columns to keep, input) of texts that are given one after the other."""
    if names[-1] == "options":
        if len(texts) < 4:
            raise DataError("choose takes an article, a question and at least two options")
        yield {}, (*texts[:2], texts[2:])
        return
    if len(texts) % len(names):
        raise DataError(f"this task takes {' and '.join(names)}: {len(texts)} texts can't be shared out")
    for start in range(0, len(texts), len(names)):
        item = tuple(texts[start:start + len(names)])
        yield dict(zip(names, item)), item


def file_rows(name, names, text=None, text_pair=None):
    """(columns to keep, input) of each row of a file, or of each line of standard input for ``-``.

    ``text`` and ``text_pair`` are the columns of the first and the second of the texts that ``names`` lists.
    """
    if name == "-" or name.endswith(".txt"):
        lines = decoded(sys.stdin.buffer) if name == "-" else text_lines(name)
        for number, line in enumerate(lines, start=1):
            parts = tuple(line.split("\t")) if len(names) > 1 else (line,)
            if names[-1] == "options":
                parts = (*parts[:2], list(parts[2:]))
            if line.strip() and len(parts) != len(names):
                raise DataError(f"{name}: line {number}: {len(parts)} texts, expected {', '.join(names)}, "
                                "parted by tabs")
            yield {}, parts if line.strip() else ("",) * len(names)
        return
    columns = [text or names[0], text_pair or names[1 % len(names)], *names[2:]][:len(names)]
    for place, row in rows_of(name):
        for column in columns:
            if column not in row:
                raise DataError(f"{name}: {place}: no column '{column}', there are: {', '.join(row)}; name one with "
                                "--text or --text-pair")
        item = [row[column] or "" for column in columns]
        if names[-1] == "options" and isinstance(item[-1], str):
            item[-1] = json.loads(item[-1] or "[]")
        yield row, tuple(item)


def decoded(stream):
    """The lines of standard input."""
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"standard input: line {number}, byte {error.start} of it: not UTF-8") from None


def finished(path):
    """How many answers a .jsonl or .csv file holds; a half-written last line is cut off."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with open(path, "r+b") as file:
            file.truncate(whole)
    if path.suffix == ".csv":
        return max(sum(1 for _ in csv.reader(content[:whole].decode("utf-8").splitlines(keepends=True))) - 1, 0)
    return content.count(b"\n")


def write_table(file, answers, goes_on=False):
    """Each answer as lines of name and value, for people."""
    for kept, answer in answers:
        row = {**kept, **answer}
        width = max(map(len, row), default=0)
        for name, value in row.items():
            print(f"{name.replace('_', ' '):{width}}  {_words(value)}", file=file)
        print(file=file, flush=True)


def write_lines(file, answers, goes_on=False):
    for kept, answer in answers:
        print(json.dumps({**kept, **_plain(answer)}, ensure_ascii=False), file=file, flush=True)


def write_json(file, answers, goes_on=False):
    mark = "["
    for kept, answer in answers:
        print(mark, json.dumps({**kept, **_plain(answer)}, ensure_ascii=False), file=file, sep="\n", end="", flush=True)
        mark = ","
    print("[]" if mark == "[" else "\n]", file=file)


def write_csv(file, answers, goes_on=False):
    """Rows under the names of the first that has an answer; lists and dictionaries as JSON."""
    writer, waiting = None, []
    for kept, answer in answers:
        waiting.append({**kept, **{name: _cell(value) for name, value in _plain(answer).items()}})
        if writer is None and answer:
            writer = csv.DictWriter(file, list(waiting[-1]), restval="", lineterminator="\n")
            if not goes_on:
                writer.writeheader()
        if writer:
            writer.writerows(waiting)
            waiting.clear()
            file.flush()


def write_array(path, answers, size):
    """Embeddings as a .npy file of float32 (rows, size), an empty input's all zero; written whole or not at all."""
    temporary, body = path.with_name(path.name + ".tmp"), path.with_name(path.name + ".body")
    rows = 0
    try:
        with open(body, "wb") as file:
            for _, answer in answers:
                file.write(np.asarray(answer.get("embedding", np.zeros(size)), "<f4").tobytes())
                rows += 1
        with open(temporary, "wb") as file, open(body, "rb") as values:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, size)})
            shutil.copyfileobj(values, file)
        os.replace(temporary, path)
    finally:
        for leftover in (temporary, body):
            leftover.unlink(missing_ok=True)


WRITERS = {"table": write_table, "jsonl": write_lines, "json": write_json, "csv": write_csv}


def _plain(answer):
    """An answer of values that JSON can hold."""
    return {name: value.tolist() if name == "embedding" else value for name, value in answer.items()}


def _cell(value):
    if isinstance(value, float):
        return f"{value:.6f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _words(value):
    """A value as a person reads it."""
    if isinstance(value, dict):
        if "predictions" in value:
            return ", ".join(f"{guess['token']} {guess['probability']:.3f}" for guess in value["predictions"])
        if "label" in value:
            return f"{value['text']} ({value['label']} {value['probability']:.3f})"
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items())
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        shown = [_words(part) for part in value[:8]]
        return ("; " if value and isinstance(value[0], dict) else ", ").join(shown) + ", ..." * (len(value) > 8)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
