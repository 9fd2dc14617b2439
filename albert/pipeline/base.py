"""From inputs to answers, whatever the task."""
import queue
import re
import threading
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import torch

from albert.config import AlbertConfig
from albert.errors import ModelError
from albert.models import Albert
from albert.pretrained import read_finetuned
from albert.quiet import quiet

OVERLAP = 0.25            # of a window with the next
BATCH_TOKENS = 4096       # tokens a forward pass, padding included
CHUNK = 256               # inputs whose windows are sorted by length together, fewer where they hold more than
CHUNK_CHARACTERS = 1_000_000
AHEAD = 64                # inputs that are read before they are needed
PATIENCE = 0.1            # seconds that a chunk is filled for: lines that come slowly are answered as they come


class Pipeline:
    """What the tasks have in common: texts to windows, windows to batches of about one length, results in order.

    Each task has a `model_class`, names its `inputs` and the `columns` of its answers, and defines `rows` (the windows
    of encoded texts), `read` (what is kept of a batch's output) and `answer` (of all windows of one input).
    """
    model_class = Albert
    changes = {}                 # of the configuration
    inputs = ("text",)

    def __init__(self, folder: Path, config: AlbertConfig, device: torch.device, dtype: torch.dtype | None, **options):
        from data.errors import DataError
        from data.tokenizer import load_tokenizer, special_ids, vocabulary_size

        self.folder, self.config, self.device, self.dtype = folder, config, device, dtype
        try:
            self.tokenizer = load_tokenizer(folder)
        except DataError as fault:
            raise ModelError(str(fault)) from None
        self.special = special_ids(self.tokenizer)
        if (size := vocabulary_size(self.tokenizer)) > config.vocab_size:
            raise ModelError(f"{folder}: the tokenizer has {size} tokens, but config.json says "
                             f"vocab_size={config.vocab_size}: they do not belong together")
        self.settled = read_finetuned(folder)
        learned = self.settled.get("seq_len", 0)
        self.length = min(config.max_position_embeddings, learned) if learned >= 5 else config.max_position_embeddings
        self.set(**options)
        self.model = self.load().to(device)

    def load(self):
        return self.model_class.from_pretrained(self.folder, **self.changes)

    def _load_for(self, *parts: str, otherwise: str = ""):
        """The model. ModelError where the checkpoint lacks one of the ``parts``; of other heads that are made anew, which
        are not asked, nothing is said."""
        with quiet():
            model = Pipeline.load(self)
        lacking = next((part for part in parts if {part, f"albert.{part}"} & set(model.anew)), None)
        if lacking:
            raise ModelError(f"{self.folder}: no {lacking} in this checkpoint{otherwise}")
        return model

    def set(self):
        """Take the options of the task; those without any take none."""

    def __call__(self, inputs):
        if isinstance(inputs, Iterator):
            raise ModelError("this takes one input or a list of them; .stream(...) takes an iterator")
        if isinstance(inputs, list):
            return list(self._answered(list(self._all_checked(inputs))))        # before any of them is computed
        return next(self.stream([inputs]))

    def stream(self, inputs: Iterable, first: int = 1, name: str = "input") -> Iterator[dict]:
        """The answers to any number of inputs, a chunk of them in memory at a time: one at first, then more. Those before
        a faulty input come before its error, which names it ``name`` and its number, from ``first`` on. Inputs are drawn in a
        thread of their own (a cursor of sqlite3 needs ``check_same_thread=False``)."""
        if isinstance(inputs, str):
            raise ModelError("stream takes an iterator or list of inputs, not one text")
        return self._answered(self._all_checked(inputs, first, name))

    def _all_checked(self, inputs, first=1, name="input"):
        for number, item in enumerate(inputs, start=first):
            try:
                checked = self._checked(item)
            except ModelError as fault:
                raise ModelError(f"{name} {number}: {fault}") from None
            yield checked

    def _answered(self, items):
        """The answers to any number of checked inputs."""
        waiting, left = queue.Queue(AHEAD), threading.Event()
        threading.Thread(target=_read_ahead, args=(items, waiting, left), daemon=True).start()
        try:
            yield from self._chunks(waiting)
        finally:
            left.set()

    def _chunks(self, waiting):
        size, end = 1, None
        while end is None:
            chunk, characters, deadline = [], 0, None                # the first input is waited for, the others until then
            while end is None and len(chunk) < size and characters <= CHUNK_CHARACTERS:
                try:
                    item, end = waiting.get(timeout=deadline and max(deadline - time.monotonic(), 0))
                    if end is None:
                        chunk.append(item)
                        characters += sum(map(len, item))
                except queue.Empty:
                    break
                deadline = deadline or time.monotonic() + PATIENCE
            asked = [index for index, item in enumerate(chunk) if self._is_asked(item)]
            answers = [{} for _ in chunk]
            for index, answer in zip(asked, self._answers([chunk[index] for index in asked])):
                answers[index] = answer
            yield from answers
            size = min(2 * size, CHUNK)
        if not isinstance(end, StopIteration):
            raise end

    def _checked(self, item):
        """The input as a tuple; ModelError for one that is no text or of the wrong number of texts."""
        item = item if isinstance(item, tuple) else (item,)
        if len(item) != len(self.inputs):
            raise ModelError(f"this task takes {' and '.join(self.inputs)}, not {len(item)} text{'s' * (len(item) != 1)}; "
                             "a tuple is one input, several inputs are a list")
        for name, part in zip(self.inputs, item):
            if name == "options" and part != "" and not isinstance(part, list):
                raise ModelError(f"options is a {type(part).__name__}, not a list of texts")
            for text in part if isinstance(part, list) and name == "options" else [part]:
                if not isinstance(text, str):
                    raise ModelError(f"{name} is a {type(text).__name__}, not a text")
                if not text.isascii() and re.search("[\ud800-\udfff]", text):
                    raise ModelError(f"{name} holds bytes that are not UTF-8")
        return item

    def _is_asked(self, item):
        """Whether an input has the texts that an answer needs."""
        return all(text.strip() for text in item)

    def _answers(self, items):
        if not items:
            return []
        windows, owners = [], []
        for number, rows in enumerate(self.rows(items)):
            windows += rows
            owners += [number] * len(rows)
        outputs = self._outputs(windows)
        grouped = [[] for _ in items]
        for owner, window, output in zip(owners, windows, outputs):
            grouped[owner].append((window, output))
        return [self.answer(item, group) for item, group in zip(items, grouped)]

    def _outputs(self, windows):
        """What `read` keeps of each window, computed in batches of about one length."""
        order = sorted(range(len(windows)), key=lambda index: -len(windows[index]["ids"]))
        outputs, start = [None] * len(windows), 0
        while start < len(order):
            width = len(windows[order[start]]["ids"])
            batch = [windows[index] for index in order[start:start + max(1, BATCH_TOKENS // width)]]
            ids, types = (torch.full((len(batch), width), fill) for fill in (self.special.pad, 0))
            for row, window in enumerate(batch):
                ids[row, :len(window["ids"])] = torch.tensor(window["ids"])
                types[row, :len(window["ids"])] = torch.tensor(window["types"])
            lengths = torch.tensor([len(window["ids"]) for window in batch])
            mask = None if lengths[-1] == width else torch.arange(width) < lengths[:, None]
            inputs = [None if tensor is None else tensor.to(self.device) for tensor in (ids, types, mask)]
            with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                kept = self.read(batch, *inputs)
            for index, output in zip(order[start:], kept):
                outputs[index] = output
            start += len(batch)
        return outputs

    def rows(self, items):
        """The windows of each item: of one text [{"ids", "types", "offsets"}], of two [{"ids", "types", "cut"}]."""
        if len(self.inputs) == 2:
            return [[row] for row in self._pairs(items)]
        encoded = self.tokenizer.encode_batch([text for text, *_ in items], add_special_tokens=False)
        return [self._windows(encoding.ids, offsets=encoding.offsets) for encoding in encoded]

    def _windows(self, ids, **columns):
        """Windows [CLS] ids [SEP]; other columns are cut as ids are."""
        room = self.length - 2
        step = max(1, room - int(OVERLAP * room))
        windows = []
        for begin in range(0, max(len(ids) - room, 0) + step, step):
            part = slice(begin, begin + room)
            body = [self.special.cls, *ids[part], self.special.sep]
            windows.append({"ids": body, "types": [0] * len(body),
                            **{name: column[part] for name, column in columns.items()}})
        return windows

    def _pairs(self, pairs):
        """One row [CLS] a [SEP] b [SEP] for each pair, the longer one cut where it does not fit."""
        return [{"ids": encoding.ids, "types": encoding.type_ids, "cut": bool(encoding.overflowing)}
                for encoding in self._cutting.encode_batch(pairs)]

    @cached_property
    def _cutting(self):
        from data.features import cutting

        return cutting(self.tokenizer, self.length)


def _read_ahead(inputs: Iterable, waiting: queue.Queue, left: threading.Event):
    """Put (input, None) of each into the queue and then (None, what has ended them), until the reader has ``left``."""
    def put(item):
        while not left.is_set():
            try:
                return waiting.put(item, timeout=1)
            except queue.Full:
                pass

    try:
        for item in inputs:
            put((item, None))
            if left.is_set():
                return
        put((None, StopIteration()))
    except BaseException as fault:                             # whatever it is, the reader waits for it
        put((None, fault))
