"""Tagging from CoNLL columns: a word and, in the last column, its label on a line, a blank line between sentences."""
from pathlib import Path

from data.errors import DataError
from data.tables import text_lines
from data.tasks import Examples, TaskData, class_names, numbered, split
from data.words import OF_ENTITIES

METRICS = ("f1", "precision", "recall", "accuracy")
DEV_FILES = ("dev.txt", "valid.txt", "testa.txt")


def read_ner(folder):
    """The TaskData of a folder with train.txt and, for held-out sentences, dev.txt, valid.txt or testa.txt."""
    folder = Path(folder)
    dev = next((folder / name for name in DEV_FILES if (folder / name).is_file()), None)
    return read_tagging(folder / "train.txt", dev)


def read_tagging(path, dev=None):
    """The TaskData of a CoNLL file; without ``dev`` a tenth of its sentences is held out."""
    read = [read_sentences(name) for name in (path, dev) if name]
    places = [lambda row, name=name, lines=lines: f"{name}: line {lines[row]}"
              for name, (*_, lines) in zip((path, dev), read)]
    return tagging([(words, tags) for words, tags, _ in read], path, places)


def read_sentences(path):
    """(words, tags, first lines) of each sentence. DataError names the line of a ragged row."""
    sentences, tags, starts = [[]], [[]], [1]
    columns, commented = None, False
    for number, line in enumerate(text_lines(path), start=1):
        # not at all white space: a word may have a narrow or a protected blank in it
        cells = [cell for part in line.split("\t" if "\t" in line else " ") if (cell := part.strip())]
        if not cells or cells[0] == "-DOCSTART-":
            if sentences[-1]:
                sentences.append([])
                tags.append([])
                starts.append(number + 1)
            starts[-1] = number + 1
            continue
        columns, commented = columns or len(cells), commented or cells[0] == "#"
        if len(cells) != columns or columns < 2:
            raise DataError(f"{path}: line {number}: {len(cells)} columns, expected "
                            f"{'a word and its label' if columns < 2 else columns}"
                            f"{'; lines that begin with # are no comments here, take them out' if commented else ''}")
        sentences[-1].append(cells[0])
        tags[-1].append(cells[-1])
    number = len(sentences) - (not sentences[-1])
    if not number:
        raise DataError(f"{path}: no sentences in it")
    if all(words == [str(place) for place in range(1, len(words) + 1)] for words in sentences[:number]):
        raise DataError(f"{path}: its first column numbers the words; take it out (cut -f 2-), the words come first")
    return sentences[:number], tags[:number], starts[:number]


def tagging(parts, path, places):
    """TaskData of [(words, tags)] for training and perhaps held out; ``places``: for each, row to words."""
    names = class_names(tag for sentence in parts[0][1] for tag in sentence)
    if len(names) < 2:
        raise DataError(f"{path}: one label only ('{names[0]}'); there must be two to tell apart")
    examples = [Examples([str(row) for row in range(len(words))], {"words": words}, numbered(tags, names, place))
                for (words, tags), place in zip(parts, places)]
    train, dev = examples if len(examples) == 2 else split(examples[0])
    entities = any(name.startswith(OF_ENTITIES) for name in names)
    return TaskData("tagging", train, dev, METRICS if entities else ("accuracy",), names)
