"""A user's own table for classification, regression, pairs or tagging."""
import json
import math
import re

from data import conll
from data.errors import DataError
from data.tables import SUFFIXES, Table
from data.tasks import Examples, TaskData, class_names, numbered, split

METRICS = {"classification": ("accuracy", "f1", "matthews"), "multilabel": ("f1", "accuracy"),
           "regression": ("pearson", "spearman")}


def read_own(task, path, dev=None, text="text", text_pair=None, label="label"):
    """The TaskData of ``classify``, ``regress``, ``pair`` or ``tag`` from .csv, .tsv, .jsonl or .parquet.

    ``tag`` also reads CoNLL columns (any other suffix). Without ``dev`` a tenth of ``path`` is held out. A label
    that is a list, in a .csv a JSON list, makes the task multi-label. Raises DataError naming file and row.
    """
    if task == "tag":
        are_tables = {str(name).lower().endswith(SUFFIXES) for name in (path, dev) if name}
        if len(are_tables) > 1:
            raise DataError(f"--dev {dev}: --data and --dev must both be tables ({' '.join(SUFFIXES)}) or both CoNLL columns")
        if text_pair:
            raise DataError("--text-pair: --task tag takes one text; leave it out")
        if are_tables == {False}:
            return conll.read_tagging(path, dev)
    if task == "pair" and not text_pair:
        raise DataError("--task pair: name the column of the second text with --text-pair")
    if text == text_pair or label in (text, text_pair):
        pair = f", --text-pair {text_pair}" if text_pair else ""
        raise DataError(f"--text {text}{pair}, --label {label}: name a column once")
    tables = [Table(name) for name in (path, dev) if name]
    inputs = [_inputs(task, table, text, text_pair) for table in tables]
    labels = [_labels(task, table, label) for table in tables]
    several = isinstance(labels[0][0], list)
    for table, values in zip(tables, labels):
        for row, value in enumerate(values):
            if isinstance(value, list) != several:
                raise DataError(f"{table.place(row)}: a list of labels in some rows and one label in others")
    if task == "tag":
        for table, columns, tags in zip(tables, inputs, labels):
            _check_lengths(table, columns["words"], tags)
        return conll.tagging(list(zip((columns["words"] for columns in inputs), labels)), tables[0].path,
                             [table.place for table in tables])
    kind = "regression" if task == "regress" else "classification"
    if kind == "classification" and several:
        kind = "multilabel"
    names, labels = [], _spelt_alike(labels)
    if kind == "regression":
        labels = [[_number(table, row, value) for row, value in enumerate(values)]
                  for table, values in zip(tables, labels)]
    else:
        names, labels = _classes(tables, labels, kind == "multilabel")
    parts = [Examples(_ids(table, {text, text_pair, label}), columns, values)
             for table, columns, values in zip(tables, inputs, labels)]
    train, held = parts if dev else split(parts[0])
    return TaskData(kind, train, held, METRICS[kind], names)


def _ids(table, taken):
    """The values of a column "id" that is nothing else, or the numbers of the rows from 0."""
    if "id" in table.columns and "id" not in taken:
        return [str(row) if _is_missing(value) else str(_plain(value)) for row, value in enumerate(table.column("id", ""))]
    return [str(row) for row in range(len(table.rows))]


def _inputs(task, table, text, text_pair):
    if task == "tag":
        conll_columns = ", or give CoNLL columns another suffix, such as .txt" * (table.path.suffix.lower() == ".tsv")
        return {"words": _lists(table, text, f"--text{conll_columns}")}
    columns = {"text": table.column(text, "--text")}
    if text_pair:
        columns["pair"] = table.column(text_pair, "--text-pair")
    for name, values in zip((text, text_pair), columns.values()):
        for row, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                raise DataError(f"{table.place(row)}: column '{name}' holds {type(value).__name__}, not text")
            if not value or not value.strip():
                raise DataError(f"{table.place(row)}: no text in column '{name}'")
    return columns


def _labels(task, table, name):
    if task == "tag":
        return _lists(table, name, "--label")
    values = [_plain(value) for value in table.column(name, "--label")]
    if task != "regress":
        values = [_json_list(table, row, value) if isinstance(value, str) and _is_list(value) else value
                  for row, value in enumerate(values)]
    for row, value in enumerate(values):
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, (list, dict, bytes)) for item in items):
            raise DataError(f"{table.place(row)}: column '{name}' holds {str(value)[:80]}, which is no label and no list of "
                            "labels")
        if any(map(_is_missing, items)):
            raise DataError(f"{table.place(row)}: no label in column '{name}'")
    return values


def _is_missing(value):
    return value is None or value != value or isinstance(value, str) and not value.strip()      # the second: NaN


def _plain(value):
    """A label as a text file would have it: parquet and JSON also know 1.0 and True."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value.strip() if isinstance(value, str) else value


def _spelt_alike(tables):
    """The labels of tables, those that are text as `_plain` has others: where all are truth values or whole numbers, as
    pandas and Excel write them."""
    texts = {value for values in tables for value in values if isinstance(value, str)}
    if {text.lower() for text in texts} <= {"true", "false"}:
        spelt = {text: text.lower() for text in texts}
    elif all(re.fullmatch(r"-?\d+(\.0)?", text) for text in texts):
        spelt = {text: text.removesuffix(".0") for text in texts}
    else:
        return tables
    return [[spelt[value] if isinstance(value, str) else value for value in values] for values in tables]


def _lists(table, name, flag):
    """The words of each row of a column: lists, JSON lists in all rows, or texts parted by blanks."""
    values, result = table.column(name, flag), []
    as_json = all(isinstance(value, str) and value.strip()[:1] == "[" and value.strip()[-1:] == "]" for value in values)
    for row, value in enumerate(values):
        words = value
        if isinstance(value, str):
            words = _json_list(table, row, value) if as_json else value.split()
        if not isinstance(words, list) or not words or any(map(_is_missing, words)):
            raise DataError(f"{table.place(row)}: column '{name}' needs words, as a list or parted by blanks")
        result.append([str(word) for word in words])
    return result


def _is_list(label):
    """Whether a label is a list, or was meant to be one: [A] is the name of a class, [1] is not."""
    return label.startswith("[") and not re.match(r"\[[^\W\d][^][,'\"]*\]", label)


def _json_list(table, row, value):
    try:
        items = json.loads(value)
    except (ValueError, RecursionError):
        items = None
    if not isinstance(items, list) or any(isinstance(item, (list, dict)) for item in items):
        raise DataError(f'{table.place(row)}: expected a JSON list such as ["a", "b"], not {value[:80]}')
    return [_plain(item) for item in items]


def _check_lengths(table, words, tags):
    for row, (some, others) in enumerate(zip(words, tags)):
        if len(some) != len(others):
            raise DataError(f"{table.place(row)}: {len(some)} words, but {len(others)} labels")


def _number(table, row, value):
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{table.place(row)}: label '{str(value)[:80]}' is not a number; for classes take --task classify")
    return number


def _classes(tables, labels, several):
    """Names of the classes of the first table, and the labels of each as numbers."""
    lists = [[[str(item) for item in (value if several else [value])] for value in values] for values in labels]
    names = class_names(item for value in lists[0] for item in value)
    if not names:
        raise DataError(f"{tables[0].path}: no label in any row")
    if len(names) < 2:
        raise DataError(f"{tables[0].path}: one class only ('{''.join(names)}'); there must be two to tell apart")
    result = [numbered(values, names, table.place) for table, values in zip(tables, lists)]
    return names, (result if several else [[value[0] for value in values] for values in result])
