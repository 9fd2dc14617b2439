"""Examples of a task as token ids: what its batches are made of.

Shapes: B examples, C choices (multiple choice only), T tokens of the longest row.
"""
import hashlib
import json
import os
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data.building import whole
from data.errors import DataError
from data.examples import NO_LABEL
from data.tokenizer import UNKNOWN_SHARE, special_ids

QUESTION_TOKENS = 64                 # a longer question is cut, as in the release's run_squad_v2.py
FORMAT = 5                           # of the cached files; a change of what they hold needs a new number
_CHUNK = 1000
_PADDING = {"token_type_ids": 0, "tags": NO_LABEL, "words": -1}


@dataclass
class Features:
    """Rows of tokens, one after the other, C for each example.

    tokens: by name, a value for each token ("input_ids", "token_type_ids"; for tagging "tags" and "words").
    offsets (rows + 1,): where each row begins. targets: by name, a value or row for each example.
    spans: for question answering, by name, a value for each token: "first" and "last" + 1 character in the context
    (-1 outside of it), and whether the row is the one that shows the token "central".
    """
    tokens: dict[str, np.ndarray]
    offsets: np.ndarray
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    spans: dict[str, np.ndarray] = field(default_factory=dict)
    choices: int = 1
    pad: int = 0

    def __len__(self):
        return (len(self.offsets) - 1) // self.choices

    @cached_property
    def lengths(self):
        """(examples,) tokens of each, of its longest choice."""
        return np.diff(self.offsets).reshape(-1, self.choices).max(axis=1)

    def batch(self, examples):
        """Arrays of the examples (B,) by name: (B, T) or (B, C, T), padded to the longest; "index": which they are."""
        examples = np.asarray(examples)
        rows = (examples[:, None] * self.choices + np.arange(self.choices)).ravel()
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        mask = np.arange(lengths.max()) < lengths[:, None]
        where = np.where(mask, starts[:, None] + np.arange(mask.shape[1]), 0)
        arrays = {name: np.where(mask, values[where], _PADDING.get(name, self.pad)).astype(np.int64)
                  for name, values in self.tokens.items()}
        arrays["attention_mask"] = mask
        if self.choices > 1:
            arrays = {name: array.reshape(-1, self.choices, mask.shape[1]) for name, array in arrays.items()}
        return {**arrays, **{name: values[examples] for name, values in self.targets.items()}, "index": examples}


def features(kind, examples, tokenizer, seq_len, num_labels=0, doc_stride=128, cache_dir=None):
    """(Features, notes) of examples of a kind as in `data.tasks.TaskData`.

    They are kept in ``cache_dir`` under a key of everything they depend on. Rows are cut to ``seq_len`` tokens, the
    longer text first; contexts of questions are laid out in windows, one every ``doc_stride`` tokens. Raises
    DataError for a ``seq_len`` that leaves no room.
    """
    path = None
    if cache_dir is not None:
        content = json.dumps([FORMAT, kind, seq_len, num_labels, doc_stride, examples.inputs, examples.labels])
        key = hashlib.blake2b((tokenizer.to_str() + content).encode(), digest_size=16).hexdigest()
        path = Path(os.path.expanduser(cache_dir)) / f"features-{key}.npz"
        if path.is_file():
            return _read(path)
    made, notes = _encode(kind, examples, tokenizer, seq_len, num_labels, doc_stride)
    special = special_ids(tokenizer)
    made.pad = special.pad
    if (unknown := np.mean(made.tokens["input_ids"] == special.unk)) > UNKNOWN_SHARE:
        notes.append(f"{unknown:.0%} of the tokens are unknown to the checkpoint's vocabulary, and all read alike")
    if path is not None:
        _write(path, made, notes)
    return made, notes


def _encode(kind, examples, tokenizer, seq_len, num_labels, doc_stride):
    columns = examples.inputs
    if kind == "tagging":
        return _tagging(examples, tokenizer, seq_len)
    if kind == "questions":
        return _questions(examples, tokenizer, seq_len, doc_stride)
    if kind == "choice":
        pairs = [(article, f"{question} {option}") for article, question, options in zip(*columns.values())
                 for option in options]
        made, notes = _texts(pairs, tokenizer, seq_len)
        made.choices = len(columns["options"][0])
    else:
        texts = list(zip(columns["text"], columns["pair"])) if "pair" in columns else columns["text"]
        made, notes = _texts(texts, tokenizer, seq_len)
    if kind == "multilabel":
        labels = np.zeros((len(examples), num_labels), np.float32)
        for row, classes in enumerate(examples.labels):
            labels[row, classes] = 1
        made.targets["labels"] = labels
    elif examples.labels is not None:
        made.targets["labels"] = np.array(examples.labels, np.float32 if kind == "regression" else np.int64)
    return made, notes


def _texts(texts, tokenizer, seq_len):
    cutter = cutting(tokenizer, seq_len)
    rows = [(encoding.ids, encoding.type_ids) for encoding in _encodings(cutter, texts)]
    full = [text for text, (ids, _) in zip(texts, rows) if len(ids) == seq_len]
    cut = sum(bool(encoding.overflowing) for encoding in _encodings(cutter, full, places=True))
    notes = [f"{cut:,} of {len(rows):,} texts are cut to seq_len={seq_len} tokens"] if cut else []
    return _packed(input_ids=[ids for ids, _ in rows], token_type_ids=[types for _, types in rows]), notes


def _tagging(examples, tokenizer, seq_len):
    """The first sub-word of a word carries its tag and its number; the others carry none."""
    rows, cut = [], 0
    encodings = _encodings(cutting(tokenizer, seq_len), examples.inputs["words"], places=True, is_pretokenized=True)
    for encoding, tags in zip(encodings, examples.labels):
        words = np.array([-1 if word is None else word for word in encoding.word_ids])
        first = (words >= 0) & (words != np.concatenate([[-1], words[:-1]]))
        cut += bool(encoding.overflowing)
        rows.append((encoding.ids, encoding.type_ids, np.where(first, np.array(tags)[words], NO_LABEL),
                     np.where(first, words, -1)))
    notes = [f"{cut} of {len(rows)} sentences are cut to seq_len={seq_len} tokens"] if cut else []
    return _packed(**dict(zip(("input_ids", "token_type_ids", "tags", "words"), zip(*rows)))), notes


def _questions(examples, tokenizer, seq_len, doc_stride):
    """Windows [CLS] question [SEP] context [SEP]; targets "start" and "end" are tokens of the window, 0 ([CLS])
    where it does not hold the whole answer; "example" is the question's number."""
    special, columns, targets, spans = special_ids(tokenizer), [], [], []
    asked = _encodings(_plain(tokenizer), examples.inputs["question"], add_special_tokens=False)
    told = _encodings(_plain(tokenizer), examples.inputs["context"], add_special_tokens=False, places=True)
    second = tokenizer.encode("", "").type_ids[-1]
    cut = 0
    for number, (question, context, answers) in enumerate(zip(asked, told, examples.labels)):
        cut += len(question.ids) > QUESTION_TOKENS
        head = [special.cls, *question.ids[:QUESTION_TOKENS], special.sep]
        room = seq_len - len(head) - 1
        if room < 1:
            raise DataError(f"question {examples.ids[number]} has {len(head) - 2} tokens, which leaves no room for its "
                            f"context: --set seq_len={len(head) + 1 + doc_stride} or more")
        first, last = np.array(context.offsets).reshape(-1, 2).T
        last = _after_accents(examples.inputs["context"][number], last)
        size, step = len(context.ids), min(doc_stride, room - room // 4)        # neighbours share a quarter at least
        begins = np.arange(0, max(size - room, 0) + step, step)
        ends = np.minimum(begins + room, size)
        central, most = np.zeros(size, int), np.full(size, -1.0)              # for each token its window, and how
        for window, (begin, end) in enumerate(zip(begins, ends)):             # much that one shows around it
            token, part = np.arange(end - begin), slice(begin, end)
            around = np.minimum(token, token[::-1]) + 0.01 * (end - begin)
            central[part] = np.where(around > most[part], window, central[part])
            most[part] = np.maximum(around, most[part])
        answer = _answer_tokens(answers[0], first, last) if answers and answers[0][0] >= 0 else (0, -1)
        for window, (begin, end) in enumerate(zip(begins, ends)):
            inside = answer[0] <= answer[1] and begin <= answer[0] and answer[1] < end
            shift = len(head) - begin
            targets.append((number, *((answer[0] + shift, answer[1] + shift) if inside else (0, 0))))
            body = [*context.ids[begin:end], special.sep]
            columns.append((head + body, [0] * len(head) + [second] * len(body)))
            outside = [-1] * len(head)
            spans.append(([*outside, *first[begin:end], -1], [*outside, *last[begin:end], -1],
                          [*(0 for _ in head), *(central[begin:end] == window), 0]))
    made = _packed(input_ids=[ids for ids, _ in columns], token_type_ids=[types for _, types in columns])
    made.targets = dict(zip(("example", "start", "end"), np.array(targets, np.int64).T))
    made.spans = {name: np.concatenate(parts).astype(np.int32)
                  for name, parts in zip(("first", "last", "central"), zip(*spans))}
    notes = [f"{cut} questions are cut to {QUESTION_TOKENS} tokens"] if cut else []
    return made, notes


def _after_accents(text, ends):
    """Places in a text, each moved behind the accents and vowel signs that follow it: tokenizers leave them out of a word."""
    if text.isascii():
        return ends
    others = np.flatnonzero([unicodedata.category(character)[0] != "M" for character in text + " "])
    return others[np.searchsorted(others, ends)]


def _answer_tokens(answer, first, last):
    """The first and last token that the answer (first character, text) touches."""
    start, text = answer
    # the space before a word belongs to its first token, so the first token that ends after it is the answer's
    return int(np.searchsorted(last, start, side="right")), int(np.searchsorted(first, start + len(text))) - 1


def _plain(tokenizer):
    """A copy that cuts nothing, whatever is done to the other."""
    return Tokenizer.from_str(tokenizer.to_str())


def cutting(tokenizer, seq_len):
    """A copy of a tokenizer that cuts what is longer than ``seq_len`` tokens, of a pair the longer text."""
    copy = _plain(tokenizer)
    try:
        copy.enable_truncation(seq_len, strategy="longest_first")
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"seq_len={seq_len}: {error}") from None
    return copy


def _encodings(tokenizer, texts, places=False, **kwargs):
    """Encodings one by one; only with ``places`` do they know their offsets, their words and what was cut off."""
    encode = tokenizer.encode_batch if places else tokenizer.encode_batch_fast
    for start in range(0, len(texts), _CHUNK):
        yield from encode(texts[start:start + _CHUNK], **kwargs)


def _packed(**columns):
    rows = next(iter(columns.values()))
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return Features({name: np.concatenate(column).astype(np.int32) for name, column in columns.items()}, offsets)


def _write(path, made, notes):
    arrays = {f"{group}/{name}": array for group in ("tokens", "targets", "spans")
              for name, array in getattr(made, group).items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, offsets=made.offsets, numbers=[made.choices, made.pad], notes=np.array(notes, str), **arrays)
    except OSError as error:
        raise DataError(f"--cache-dir {path.parent}: {error.strerror}") from None


def _read(path):
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # of damaged bytes zipfile and NumPy raise whatever they stumble over
        raise DataError(f"{path}: damaged ({type(error).__name__}); delete it") from None
    groups = {"tokens": {}, "targets": {}, "spans": {}}
    for name, array in arrays.items():
        group, _, column = name.partition("/")
        if column:
            groups[group][column] = array
    choices, pad = map(int, arrays["numbers"])
    return Features(offsets=arrays["offsets"], choices=choices, pad=pad, **groups), arrays["notes"].tolist()
