"""Which reader a task's data goes through."""
import os
from collections import Counter

from data.conll import read_ner, read_tagging
from data.errors import DataError
from data.glue import GLUE, read_glue
from data.own import read_own
from data.race import read_race
from data.squad import VERSIONS, read_squad
from data.tasks import repeated

OWN = ("classify", "regress", "pair", "tag")
LARGE = 100                      # beyond this the labels of a regression are out of a new head's reach
TASKS = (*GLUE, *VERSIONS, "race", "ner", *OWN)


def read_task(task, data=None, dev=None, text="text", text_pair=None, label="label", small=False):
    """The TaskData of ``task``, one of `TASKS`, from ``data``, a file or folder, or from the hub where the task is there.

    Raises DataError for data that is missing or faulty.
    """
    folder = data is not None and os.path.isdir(os.path.expanduser(data))
    if dev and task not in OWN and (folder or data is None or task in GLUE or task == "race"):
        raise DataError(f"--dev {dev}: --task {task} finds its held-out file itself; leave --dev out")
    for flag, value, default in (("--text", text, "text"), ("--text-pair", text_pair, None), ("--label", label, "label")):
        if task not in OWN and value != default:
            raise DataError(f"{flag} {value}: names a column of your own file; --task {task} knows its columns")
    if task in OWN:
        if data is None:
            raise DataError(f"--task {task}: name your file with --data, such as --data train.csv")
        read = read_own(task, data, dev, text, text_pair, label)
    elif data is None and task == "ner":
        raise DataError("--task ner: name a folder with train.txt and dev.txt in CoNLL columns with --data")
    elif task == "ner":
        read = read_ner(data) if folder else read_tagging(data, dev)
    elif task in VERSIONS:
        read = read_squad(task, data, dev)
    elif data is not None and not folder:
        raise DataError(f"--data {data}: no such folder; --task {task} reads a folder in the layout of its release")
    else:
        read = read_race(data) if task == "race" else read_glue(task, data)
    _check_labels(read, data or task)
    if dev:
        read.notes += repeated(read.train, read.dev)
    return read.small() if small else read


def _check_labels(read, place):
    """Raise DataError for training examples of one label; note what the held-out ones have alone, or lack."""
    if read.kind not in ("classification", "regression"):
        return
    seen = set(read.train.labels)
    if read.kind == "regression":
        if len(seen) < 2:
            raise DataError(f"{place}: all training examples have the label {seen.pop():g}; there is nothing to learn")
        if (most := max(map(abs, seen))) > LARGE:
            read.notes.append(f"labels go up to {most:,.6g}: so large ones are hardly learnt; bring them to about 1")
        return
    if len(seen) < 2:
        raise DataError(f"{place}: all training examples are of the class '{read.labels[seen.pop()]}'; there must be two to "
                        "tell apart")
    spellings = Counter(map(str.casefold, read.labels))
    if alike := [name for name in read.labels if spellings[name.casefold()] > 1]:
        read.notes.append(f"classes that differ in capitals only: {', '.join(alike[:10])}{', ...' * (len(alike) > 10)}; where "
                          "they are one, write them alike")
    missing = [read.labels[index] for index in sorted(set(read.dev.labels) - seen)]
    if missing:
        shown = ", ".join(missing[:10]) + ", ..." * (len(missing) > 10)
        read.notes.append(f"held out: no training example is of the class {shown}")
    if len(held := set(read.dev.labels)) == 1:
        read.notes.append(f"held out: all are of the class {read.labels[held.pop()]}: their scores say nothing of the others")
