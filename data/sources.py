"""Where text comes from: local files, hub datasets and Python's own documentation, as one stream."""

import glob
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data import pydocs
from data.errors import DataError
from data.files import SUFFIXES, LocalFile, Paragraphs, column_texts, nearest, row_paragraphs
from data.hub import load_split

DOCUMENTS = ("file", "blank-line", "line")
SMALL_BYTES = 2_000_000
SMALL_SPLITS = ("train[:1%]", "train[:10%]")  # of hub data, the first that holds so much
NAMED_SOURCES = ("pydocs", "wikipedia")
WIKIPEDIA = ("wikimedia/wikipedia", "20231101.en")


def open_source(
    names: Sequence[str], *, text_field: str = "text", documents: str = "file", small: bool = False
) -> "Source":
    """The text that the values of `--data` name, concatenated in their order.

    A name is `pydocs`, `wikipedia`, `hf:NAME[:CONFIG]`, a file, a folder (every file of a known suffix below
    it, sorted by path, hidden ones left out) or a glob of such; a file that is named twice is read once. `documents` says
    where a `.txt` file is cut into documents: at its end (`file`), at blank lines or at each line. Rows of the other
    formats are documents, and `text_field` names their column. `small` keeps 1 % of the text, more where that is under 2 MB.
    Raises DataError for what cannot be found, has an unknown format or is empty.
    """
    if documents not in DOCUMENTS:
        raise DataError(f"--documents {documents}: unknown; choose from {', '.join(DOCUMENTS)}")
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise DataError(f"--data {names!r}: expected one or more names, such as pydocs or a folder")
    parts, read, left_out = [], set(), Counter()
    for name in names:
        if name == "pydocs":
            parts.append(PythonDocs())
        elif name == "wikipedia":
            parts.append(HubDataset(*WIKIPEDIA, "text", small))
        elif name.startswith("hf:"):
            repository, _, configuration = name.removeprefix("hf:").partition(":")
            if not repository:
                raise DataError(f"--data {name}: write hf:NAME or hf:NAME:CONFIG, such as hf:{':'.join(WIKIPEDIA)}")
            parts.append(HubDataset(repository, configuration or None, text_field, small))
        else:
            found, others = local_files(name)
            left_out.update(others)
            for path in found:
                if path.resolve() not in read:
                    read.add(path.resolve())
                    parts.append(LocalFile(path, text_field, documents))
    return Source(names, parts, small, left_out)


class Source:
    """A stream of paragraphs with its cache key.

    `name` is for people; `total_bytes` is the input's size on disk, None where it is not known beforehand;
    `bytes_read` says how much of it `paragraphs` has consumed so far (compressed bytes of compressed files).
    `left_out` counts the files of folders that are of no known kind, by suffix.
    """

    def __init__(
        self, names: Sequence[str], parts: Sequence["LocalFile | HubDataset | PythonDocs"], small: bool, left_out: Counter
    ):
        self.name = " + ".join(names)
        self.parts = parts
        self.small = small
        self.left_out = left_out
        sizes = [part.size for part in parts]
        self.total_bytes = None if None in sizes else sum(sizes)
        self.bytes_read = 0

    def fingerprint(self) -> dict:
        """Everything that decides the text, ready for JSON."""
        return {"small": self.small, "parts": [part.fingerprint() for part in self.parts]}

    def remarks(self) -> list[str]:
        """Lines on what is not read."""
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in self.left_out.most_common(5))
        return [f"{self.name}: files of no known kind are left out: {kinds}"] if kinds else []

    def paragraphs(self) -> Paragraphs:
        """Yields (starts_document, paragraph): not empty, each run of white space one blank, at most 100,000
        characters (a longer paragraph is cut at white space). Raises DataError for faulty or absent text."""
        self.bytes_read = 0
        found = False
        allowed = math.inf
        if self.small:
            allowed = max(sum(part.size or 0 for part in self.parts) // 100, SMALL_BYTES)
        for part in self.parts:
            whole = isinstance(part, HubDataset)  # a small one was cut by the hub's split
            if allowed <= 0 and not whole:
                continue
            before = self.bytes_read
            for item in part.paragraphs():
                found = True
                self.bytes_read = before + part.position
                yield item
                if part.position >= allowed and not whole:
                    break
            self.bytes_read = before + part.position
            if not whole:
                allowed -= part.position
        if not found:
            raise DataError(f"{self.name}: no text in it, only white space or empty rows")


class HubDataset:
    """The train split of a dataset on the 🤗 hub; `position` counts bytes of text."""

    size = None

    def __init__(self, repository: str, configuration: str | None, text_field: str, small: bool):
        self.repository = repository
        self.configuration = configuration
        self.text_field = text_field
        self.position = 0
        for self.split in (*SMALL_SPLITS, "train") if small else ("train",):
            self.rows = load_split(repository, configuration, self.split, f"--data {self.name}:", "text")
            if text_field not in self.rows.column_names:
                raise DataError(f"--data {self.name}: no column '{text_field}', there are: "
                                f"{', '.join(self.rows.column_names)}; name one with --text-field")
            if self.split == "train" or self._holds(SMALL_BYTES):
                break

    @property
    def name(self) -> str:
        return "hf:" + ":".join(filter(None, (self.repository, self.configuration)))

    def fingerprint(self) -> dict:
        return {"hub": self.repository, "configuration": self.configuration, "split": self.split,
                "text_field": self.text_field, "dataset": self.rows._fingerprint}

    def _holds(self, wanted: int) -> bool:
        """Whether there are that many characters of text."""
        found = 0
        for text in self._texts():
            found += len(text)
            if found >= wanted:
                return True
        return False

    def _texts(self):
        rows = self.rows.select_columns([self.text_field]).iter(batch_size=64)
        return column_texts((batch[self.text_field] for batch in rows), self.text_field, self.name)

    def paragraphs(self) -> Paragraphs:
        self.position = 0
        for text in self._texts():
            self.position += len(text.encode())
            yield from row_paragraphs(text)


class PythonDocs:
    """The prose of installed Python documentation; `position` counts bytes of text."""

    size = None

    def __init__(self):
        self.position = 0

    def fingerprint(self) -> dict:
        return pydocs.fingerprint()

    def paragraphs(self) -> Paragraphs:
        self.position = 0
        for starts, paragraph in pydocs.paragraphs():
            self.position += len(paragraph.encode())
            yield starts, paragraph


def absolute(name: str) -> str:
    """The name of a source, a local one as an absolute path: a run may be resumed from another folder."""
    if name in NAMED_SOURCES or name.startswith("hf:"):
        return name
    name = os.path.expanduser(name)
    if glob.has_magic(name) and not os.path.exists(name):
        return os.path.join(glob.escape(os.getcwd()), name)
    return os.path.abspath(name)


def local_files(name: str) -> tuple[list[Path], Counter]:
    """The readable files that a path or glob stands for, absolute, in order; and how many others are there, by suffix."""
    path = Path(os.path.abspath(os.path.expanduser(name)))
    if path.is_file():
        if not path.name.lower().endswith(SUFFIXES):
            raise DataError(f"{name}: unknown suffix '{path.suffix}'; known are {' '.join(SUFFIXES)}")
        found, others = [path], []
    else:
        if path.is_dir():
            matches = {path}
        elif glob.has_magic(name):
            matches = _matches(os.path.expanduser(name))
        elif path.is_symlink():
            raise _dangling(path)
        else:
            raise DataError(f"{name}: no such file or folder{nearest(path)}; "
                            "give a file, folder, glob, hf:NAME, wikipedia or pydocs")
        below = (_matches(os.path.join(glob.escape(str(match)), "**", "*")) for match in matches if match.is_dir())
        matches = matches.union(*below)
        files = sorted(filter(Path.is_file, matches))
        for match in sorted(matches.difference(files)):
            if match.is_symlink() and not os.path.exists(os.path.realpath(match)):      # exists() gives up in a circle of links
                raise _dangling(match)
            if match.is_dir() and not os.access(match, os.R_OK | os.X_OK):
                raise DataError(f"{match}: this folder may not be read")
        found = [file for file in files if file.name.lower().endswith(SUFFIXES)]
        others = sorted(set(files) - set(found))
    if not found:
        hint = "" if path.is_dir() else nearest(path)
        raise DataError(f"{name}: no file there with a known suffix ({' '.join(SUFFIXES)}){hint}")
    if not any(file.stat().st_size for file in found):
        raise DataError(f"{name}: empty (0 bytes)")
    return found, Counter(file.suffix or file.name for file in others)


def _matches(pattern: str) -> set[Path]:
    return {Path(os.path.abspath(match)) for match in glob.glob(pattern, recursive=True)}


def _dangling(link: Path) -> DataError:
    return DataError(f"{link}: a link to {os.readlink(link)}, which is not there; mend or delete it")
