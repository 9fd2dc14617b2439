"""The GLUE tasks (Wang et al. 2019) from the files of the benchmark, or from the hub."""
import math
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.hub import load_split
from data.tables import text_lines
from data.tasks import Examples, TaskData, numbered

REPOSITORY = "nyu-mll/glue"
NUMBERS = ("index", "id")        # names of a first column that numbers the rows


@dataclass(frozen=True)
class Layout:
    """folder: the task's name in the benchmark. columns: of the text(s) and the label in its .tsv files; numbers
    where they have no header. hub: columns of the text(s) there. test: {file of a submission: part it is made of}."""
    folder: str
    columns: tuple
    hub: tuple
    labels: tuple | None                                 # None: a number
    metrics: tuple = ("accuracy",)
    parts: tuple = ("dev",)
    test: dict | None = None                             # None: {folder: "test"}

    @property
    def submissions(self):
        return self.test or {self.folder: "test"}


_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_SENTENCES = ("sentence1", "sentence2")
GLUE = {
    "cola": Layout("CoLA", (3, 1), ("sentence",), _BINARY, ("matthews", "accuracy")),
    "sst2": Layout("SST-2", ("sentence", "label"), ("sentence",), _BINARY),
    "mrpc": Layout("MRPC", ("#1 String", "#2 String", "Quality"), _SENTENCES, _BINARY, ("f1", "accuracy")),
    "stsb": Layout("STS-B", (*_SENTENCES, "score"), _SENTENCES, None, ("pearson", "spearman")),
    "qqp": Layout("QQP", ("question1", "question2", "is_duplicate"), ("question1", "question2"), _BINARY,
                  ("f1", "accuracy")),
    "mnli": Layout("MNLI", (*_SENTENCES, "gold_label"), ("premise", "hypothesis"),
                   ("entailment", "neutral", "contradiction"), parts=("dev_matched", "dev_mismatched"),
                   test={"MNLI-m": "test_matched", "MNLI-mm": "test_mismatched"}),
    "qnli": Layout("QNLI", ("question", "sentence", "label"), ("question", "sentence"), _ENTAILMENT),
    "rte": Layout("RTE", (*_SENTENCES, "label"), _SENTENCES, _ENTAILMENT),
    "wnli": Layout("WNLI", (*_SENTENCES, "label"), _SENTENCES, _BINARY),
}


def read_glue(name, folder=None):
    """The TaskData of a GLUE task from ``folder`` (its train.tsv and dev.tsv, or a folder with the task's in it).

    Without a folder it comes from the hub. Rows without text or with too few columns, which QQP has, are left out
    and counted in the notes. The test parts, where they are there, are read whole. Raises DataError for missing
    files or columns and unknown labels.
    """
    layout, notes = GLUE[name], []
    if folder is None:
        parts = {part: _from_hub(name, layout, part) for part in ("train", *layout.parts)}
        test = {file: _from_hub(name, layout, part) for file, part in layout.submissions.items()}
    else:
        folder = Path(folder)
        folder = folder / layout.folder if (folder / layout.folder).is_dir() else folder
        if not (folder / "train.tsv").is_file():
            raise DataError(f"{folder}: no such file: train.tsv, nor {layout.folder}/train.tsv")
        parts = {part: _from_file(folder / f"{part}.tsv", layout, notes) for part in ("train", *layout.parts)}
        test = {file: _test_file(folder / f"{part}.tsv", layout) for file, part in layout.submissions.items()
                if (folder / f"{part}.tsv").is_file()}
    held = [parts[part] for part in layout.parts]
    dev = held[0] if len(held) == 1 else Examples(
        [f"{name.removeprefix('dev_')}-{index}" for name, part in zip(layout.parts, held) for index in part.ids],
        {column: [text for part in held for text in part.inputs[column]] for column in held[0].inputs},
        [label for part in held for label in part.labels],
        [name.removeprefix("dev_") for name, part in zip(layout.parts, held) for _ in part.ids])
    kind = "regression" if layout.labels is None else "classification"
    return TaskData(kind, parts["train"], dev, layout.metrics, list(layout.labels or ()), notes, test)


def _from_file(path, layout, notes):
    *texts, label = layout.columns
    lines, first, numbered_there = enumerate(text_lines(path), start=1), 1, False
    if isinstance(label, str):
        header = next(lines, (1, ""))[1].split("\t")
        for name in layout.columns:
            if name not in header:
                raise DataError(f"{path}: no column '{name}' of {layout.folder}, there are: {', '.join(header)}")
        *texts, label = (header.index(name) for name in layout.columns)
        first, numbered_there = 2, header[0] in NUMBERS
    needed = max(*texts, label) + 1
    rows, numbers, faulty = [], [], 0
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) >= needed and all(cells[column].strip() for column in (*texts, label)):
            rows.append(cells)
            numbers.append(number)
        else:
            faulty += 1
    if not rows:
        raise DataError(f"{path}: no rows in the layout of {layout.folder}")
    if faulty:
        notes.append(f"{path}: {faulty} rows without text or with too few columns are left out")
    values = [cells[label].strip() for cells in rows]
    if layout.labels is None:
        labels = [_score(value, f"{path}: line {number}") for value, number in zip(values, numbers)]
    else:
        labels = [label for label, in numbered([[value] for value in values], layout.labels,
                                               lambda row: f"{path}: line {numbers[row]}")]
    inputs = {name: [cells[column] for cells in rows] for name, column in zip(("text", "pair"), texts)}
    ids = [cells[0] if numbered_there else str(number - first) for cells, number in zip(rows, numbers)]
    return Examples(ids, inputs, labels)


def _test_file(path, layout):
    """The examples of a test file, ids in its first column; CoLA's has a header too."""
    columns = [name for name in layout.columns[:-1] if isinstance(name, str)] or ["sentence"]
    header, *rows = [line.split("\t") for line in text_lines(path)] or [[]]
    for name in columns:
        if name not in header:
            raise DataError(f"{path}: no column '{name}' of {layout.folder}, there are: {', '.join(header)}")
    while rows and rows[-1] == [""]:
        rows.pop()
    if not rows:
        raise DataError(f"{path}: a header and no rows; take the file away to train without it")
    for number, cells in enumerate(rows, start=2):
        if len(cells) < len(header):
            raise DataError(f"{path}: line {number}: {len(cells)} columns, the header has {len(header)}")
    inputs = {ours: [cells[header.index(theirs)] for cells in rows]
              for ours, theirs in zip(("text", "pair"), columns)}
    numbered_there = header[0] in NUMBERS
    return Examples([cells[0] if numbered_there else str(row) for row, cells in enumerate(rows)], inputs, None)


def _score(value, place):
    try:
        score = float(value)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"{place}: score '{value}' is not a number")
    return score


def _from_hub(name, layout, part):
    rows = load_split(REPOSITORY, name, part.replace("dev", "validation"), f"{REPOSITORY}: {name}")
    inputs = {ours: list(rows[theirs]) for ours, theirs in zip(("text", "pair"), layout.hub)}
    return Examples([str(index) for index in rows["idx"]], inputs, None if part.startswith("test") else list(rows["label"]))
