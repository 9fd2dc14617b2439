"""What a model answers, as lines for people, JSON, CSV or an array of embeddings."""
import contextlib
import csv
import io
import itertools
import json
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from data.building import whole
from data.errors import DataError

SHOWN = 8                 # parts of a list or dictionary, where a person reads it


class Output:
    """Where the answers to rows go: a file of a suffix that `check_output` knows, or for ``path`` None standard output.

    fields: the columns that are kept of each row. columns: those of an answer; one that is named like a field has ``answer_``
    before it. size: of an embedding. append: go on with what an interrupted run has left; ``done`` of its answers are there.
    Raises DataError where what is there is nothing to go on with.
    """

    def __init__(self, path, append, fields, columns, size):
        self.path, self.append, self.fields, self.size = path, append, fields, size
        self.names = {}
        for column in columns:
            self.names[column] = column
            while self.names[column] in fields:
                self.names[column] = f"answer_{self.names[column]}"
        self.header = [*fields, *self.names.values()]
        self.done, self._end, self._last = self._there() if append else (0, 0, b"")

    def _there(self):
        """(whole answers, their length in bytes, the last of them as bytes) in the file."""
        if self.path.suffix == ".npy":
            return self._rows_of_array(), 0, b""
        header_rows = int(self.path.suffix == ".csv")
        rows = end = position = quotes = 0
        first = last = row = b""
        with open(self.path, "rb") if self.path.exists() else contextlib.nullcontext(()) as lines:
            for line in lines:
                position += len(line)
                quotes += line.count(b'"') if header_rows else 0             # within quotes a line end ends no row
                row += line
                if rows == 0:
                    first = row
                if line.endswith(b"\n") and quotes % 2 == 0:
                    rows, end, last, row = rows + 1, position, row, b""
        begin = io.StringIO()
        if header_rows:
            csv.writer(begin).writerow(self.header)
        else:
            begin.write("{" + _json(self.header[0]))
        begin = begin.getvalue().encode()
        last = last if rows > header_rows else b""
        if not (first.startswith(begin) or rows == 0 and begin.startswith(first)) or \
                not header_rows and not _keys(last) <= set(self.header):
            raise DataError(f"--output {self.path}: it holds no answers to this input; name another file")
        return max(rows - header_rows, 0), end, last

    def _rows_of_array(self):
        if self.path.exists():
            raise DataError(f"--output {self.path}: it is whole; --append goes on with an interrupted one")
        body = body_of(self.path)
        return max(body.stat().st_size // (4 * self.size) - 1, 0) if body.exists() else 0          # the last one is compared

    def left(self, rows):
        """What follows, of rows (columns to keep, input), those whose answers are there; DataError where the last
        answer is that to another row."""
        number, kept = 0, {}
        for number, (kept, _) in enumerate(itertools.islice(rows, self.done), start=1):
            pass
        if number < self.done or self._last and not self._last.startswith(self._beginning(kept)):
            raise self._of_another(self.done)
        yield from rows

    def _of_another(self, number):
        return DataError(f"--output {self.path}: its answer {number} is not to row {number} of this input; name another file")

    def _beginning(self, kept):
        """The bytes with which an answer begins: the columns that are kept."""
        if self.path.suffix == ".jsonl":
            return _json(kept)[:-1].encode()
        line = io.StringIO()
        csv.writer(line).writerow([*(_cell(kept.get(name), kept=True) for name in self.fields), ""])
        return line.getvalue()[:-len("\r\n")].encode()

    def write(self, answers, kind):
        """Write (columns to keep, answer) as each comes. kind: of `WRITERS`, for standard output; a file's suffix says its."""
        answers = itertools.chain(list(itertools.islice(answers, 1)), answers)   # the first one's faults come before any file
        if self.path and self.path.suffix == ".npy":
            return self._write_array(answers)
        answers = ((kept, {self.names[name]: value for name, value in answer.items()}) for kept, answer in answers)
        if self.append and self.path.exists():
            os.truncate(self.path, self._end)                                    # what is half-written
        with open(self.path, "a" if self.append else "w", newline="", encoding="utf-8") if self.path else \
                contextlib.nullcontext(sys.stdout) as file:
            WRITERS[self.path.suffix[1:] if self.path else kind](file, answers, self.header, begun=self._end > 0)

    def _write_array(self, answers):
        """Embeddings as a .npy file of float32 (rows, size), an empty input's all zero: whole, or FILE.npy.part with the rows
        that there are. The last of those that are there already is computed again, to see that it is of this input."""
        body, rows = body_of(self.path), self.done
        answers = (np.asarray(answer.get("embedding", np.zeros(self.size)), "<f4") for _, answer in answers)
        with open(body, "a+b") as file:
            file.seek(4 * self.size * self.done)
            if len(before := file.read(4 * self.size)) == 4 * self.size:
                before, first = np.frombuffer(before, "<f4"), next(answers, None)
                if first is None or np.linalg.norm(first - before) > 0.05 * np.linalg.norm(before):
                    raise self._of_another(self.done + 1)
                answers = itertools.chain([first], answers)
            file.truncate(4 * self.size * self.done)
            for vector in answers:
                file.write(vector.tobytes())
                file.flush()
                rows += 1
        with whole(self.path) as temporary, open(temporary, "wb") as file, open(body, "rb") as values:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, self.size)})
            shutil.copyfileobj(values, file)
        body.unlink()


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


def _keys(line):
    """The keys of the object on a line, which may be empty; {""} of what is no object."""
    try:
        return set(dict(json.loads(line or b"{}")))
    except (ValueError, TypeError):
        return {""}


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
        shown = list(value.items())
        if len(shown) > SHOWN and all(isinstance(part, float) for part in value.values()):            # of many classes the best
            shown = sorted(shown, key=lambda pair: -pair[1])[:SHOWN]
        mark = "; " if any("," in name for name in value) else ", "
        return mark.join(f"{name} {_words(part)}" for name, part in shown) + f"{mark}..." * (len(value) > len(shown))
    if isinstance(value, list):
        shown = [_words(part) for part in value[:SHOWN]]
        mark = "; " if value and isinstance(value[0], dict) or any("," in part for part in shown) else ", "
        return mark.join(shown) + f"{mark}..." * (len(value) > SHOWN)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
