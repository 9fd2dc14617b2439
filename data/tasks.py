"""What a fine-tuning task is learnt from and scored on, whatever files it comes from."""
import hashlib
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from data import draws
from data.errors import DataError

HELDOUT_SHARE = 0.1
SMALL_SHARE, SMALL_LEAST = 0.01, 100


@dataclass
class Examples:
    """Columns of equal length.

    inputs, by kind of task: "text" and perhaps "pair" (classification, regression, multilabel); "words"
    (tagging); "question" and "context" (questions); "article", "question" and "options" (choice).
    labels: a class, a number, a list of classes; a list of tags; the answers [(first character, text)], none
    where there is no answer; an option. Classes, tags and options are numbers from 0. None where there are none.
    groups: the part of the held-out examples, such as "matched", that each belongs to, if they are parted.
    """
    ids: list[str]
    inputs: dict[str, list]
    labels: list | None
    groups: list[str] | None = None

    def __len__(self):
        return len(self.ids)

    def select(self, indices):
        def pick(column):
            return None if column is None else [column[index] for index in indices]
        return Examples(pick(self.ids), {name: pick(column) for name, column in self.inputs.items()},
                        pick(self.labels), pick(self.groups))


@dataclass
class TaskData:
    """Training and held-out examples; ``metrics[0]`` chooses the best checkpoint.

    kind: classification, regression, multilabel, tagging, questions or choice. labels: the names of the classes
    or tags. notes: what a user should know of the reading, such as rows left out. test: examples without labels, by
    the name of the file that their predictions are submitted in.
    """
    kind: str
    train: Examples
    dev: Examples
    metrics: tuple[str, ...]
    labels: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    test: dict[str, Examples] = field(default_factory=dict)

    @cached_property
    def fingerprint(self):
        """A digest of all examples and the names of their labels."""
        parts = [[part.ids, part.inputs, part.labels] for part in (self.train, self.dev, *self.test.values())]
        return hashlib.blake2b(json.dumps([parts, self.labels]).encode(), digest_size=16).hexdigest()

    def classes(self):
        """A line on the classes or tags of the training examples and how many have each, the most frequent first; none for
        other kinds of task: [line]."""
        if self.kind not in ("classification", "multilabel", "tagging"):
            return []
        labels = self.train.labels
        counts = Counter(labels if self.kind == "classification" else itertools.chain.from_iterable(labels))
        shown = ", ".join(f"{self.labels[index]} {count:,}" for index, count in counts.most_common(12))
        return [f"{len(counts)} {'tags' if self.kind == 'tagging' else 'classes'}: {shown}{', ...' * (len(counts) > 12)}"]

    def small(self):
        """The task with 1 % of the training examples, at least 100, chosen by a fixed draw, and without its test."""
        number = max(SMALL_LEAST, round(SMALL_SHARE * len(self.train)))
        self.train = self.train.select(np.sort(draws.permutation(draws.key("small"), len(self.train))[:number]))
        self.test = {}
        return self


def split(examples):
    """(training, held-out) examples; a tenth is held out, by a draw that is the same for every seed. Examples of the same
    text, and all questions about one context, stay on one side."""
    texts = _texts(examples, ["context"] if "context" in examples.inputs else examples.inputs)
    counts, held, left = Counter(texts), set(), max(1, round(HELDOUT_SHARE * len(examples)))
    if len(counts) < 2:
        raise DataError(f"{len(examples)} examples, {len(counts)} different text: too few to hold one out; name a file for it "
                        "with --dev")
    for index in draws.permutation(draws.key("heldout"), len(examples)):
        if texts[index] not in held and counts[texts[index]] <= left:
            held.add(texts[index])
            left -= counts[texts[index]]
    held = held or {min(counts, key=counts.get)}
    inside = np.array([text in held for text in texts])
    return examples.select(np.flatnonzero(~inside)), examples.select(np.flatnonzero(inside))


def repeated(train, dev):
    """A note where held-out examples are in the training data too, else none."""
    known = set(_texts(train, train.inputs))
    number = sum(text in known for text in _texts(dev, dev.inputs))
    return [f"{number:,} of the {len(dev):,} held-out texts are in the training data too"] if number else []


def _texts(examples, names):
    return [json.dumps(row) for row in zip(*(examples.inputs[name] for name in names))]


def class_names(values):
    """The different labels in order: by number where all are numbers, else by name."""
    names = set(values)
    try:
        return sorted(sorted(names), key=float)
    except ValueError:
        return sorted(names)


def numbered(rows, names, place):
    """Rows of labels as their places in ``names``; DataError for one that is not there. ``place``: row to words."""
    index = {name: number for number, name in enumerate(names)}
    for row, labels in enumerate(rows):
        for label in labels:
            if label not in index:
                shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
                raise DataError(f"{place(row)}: label '{label}' does not occur in the training data ({shown})")
    return [[index[label] for label in labels] for labels in rows]
