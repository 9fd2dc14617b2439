"""Blocks of paragraphs to token ids, in processes of their own and in the order of the text.

A worker process imports this file and what it names (no torch) and talks over its standard input and output, so it
can be started at any moment: nothing is forked, and it ends with its parent.
"""
import json
import os
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import chain, cycle
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from data.errors import DataError
from data.sentences import split_sentences
from data.tokenizer import METASPACES, splits, vocabulary_size

BLOCK_CHARACTERS = 1 << 20
CACHED_WORDS = 1 << 18  # about 50 MB
HEADER = struct.Struct("<3q")
BLANKS = "a  a\t a \ta a\u00a0 a \u00a0a"  # the normaliser must make one blank of these, and leave none at an end
INDEPENDENT_NORMALIZERS = {"Sequence", "Nmt", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents",
                           "Precompiled", "Replace", "Strip", "BertNormalizer"}


class EncodedBlock(NamedTuple):
    """Ids (n,) of all sentences of a block, their lengths (s,) in tokens, first sentences (d,) of documents.

    A document that begins at the very end of a block has `s` as its first sentence.
    """
    tokens: np.ndarray
    sentence_lengths: np.ndarray
    document_starts: np.ndarray


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def paragraph_blocks(paragraphs: Iterable[tuple[bool, str]]) -> Iterator[list[tuple[bool, str]]]:
    """Lists of (starts_document, paragraph) of about a megabyte; where they end depends on the text alone."""
    block, size = [], 0
    for starts_document, paragraph in paragraphs:
        block.append((starts_document, paragraph))
        size += len(paragraph)
        if size >= BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


class BlockEncoder:
    """Splits a block into sentences and encodes them, without special tokens.

    Where the tokenizer looks at each blank-separated word alone (as ALBERT's and BERT's do), a word is
    encoded once and then looked up: the same ids, several times faster. Special tokens that the text
    itself spells out become the unknown token: `[SEP]` in a text ends no segment.
    """

    def __init__(self, tokenizer: Tokenizer, language: str = "en"):
        self.tokenizer, self.language = tokenizer, language
        size = vocabulary_size(tokenizer)
        self.dtype = token_dtype(size)
        self.kept = np.arange(size, dtype=self.dtype)  # what stands for each id
        unknown = [tokenizer.token_to_id(token) for token in ("<unk>", "[UNK]")]
        unknown = next((index for index in unknown if index is not None), None)
        if unknown is not None:
            special = [i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special]
            self.kept[special] = unknown
        self.by_word = encodes_by_word(tokenizer)
        self.words: dict[str, bytes] = {"": b""}

    def __call__(self, block: list[tuple[bool, str]]) -> EncodedBlock:
        sentences, starts = [], []
        for starts_document, paragraph in block:
            if starts_document:
                starts.append(len(sentences))
            sentences += split_sentences(paragraph, self.language)
        if not sentences:
            return EncodedBlock(np.zeros(0, self.dtype), np.zeros(0, "<i8"), np.zeros(len(starts), "<i8"))
        encoded, lengths = self._by_word(sentences) if self.by_word else self._encode(sentences)
        kept = lengths > 0  # a sentence of accents alone, for example, has no token
        position = np.concatenate([[0], np.cumsum(kept)])
        return EncodedBlock(np.frombuffer(b"".join(encoded), self.dtype), lengths[kept], position[starts])

    def _encode(self, texts: list[str]) -> tuple[list[bytes], np.ndarray]:
        """Ids of each text as bytes, and their number."""
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = self.kept[np.fromiter(chain.from_iterable(rows), np.int64, lengths.sum())].tobytes()
        ends = (np.cumsum(lengths) * self.dtype.itemsize).tolist()
        return [ids[start:end] for start, end in zip([0, *ends], ends)], lengths

    def _by_word(self, sentences: list[str]) -> tuple[list[bytes], np.ndarray]:
        split = [sentence.split(" ") for sentence in sentences]
        words = list(chain.from_iterable(split))
        if len(self.words) > CACHED_WORDS:
            self.words = {"": b""}
        new = list(set(words) - self.words.keys())
        self.words.update(zip(new, self._encode(new)[0]))
        encoded = [self.words[word] for word in words]
        sizes = np.fromiter(map(len, encoded), np.int64, len(encoded)) // self.dtype.itemsize
        first = np.cumsum([0] + [len(row) for row in split[:-1]])
        return encoded, np.add.reduceat(sizes, first)


def encodes_by_word(tokenizer: Tokenizer) -> bool:
    """Whether the ids of a text are those of its parts between blanks (U+0020), one after the other."""
    parts = json.loads(tokenizer.to_str())
    (kinds, last), normalizer = splits(parts), parts["normalizer"] or {}
    steps = {step["type"] for step in [normalizer, *normalizer.get("normalizers", [])] if step}
    metaspace = (kinds in METASPACES and last.get("prepend_scheme") == "always" and last.get("split", True)
                 and parts["model"]["type"] == "Unigram")
    wordpiece = (parts["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer" and parts["model"]["type"] == "WordPiece"
    if not (metaspace or wordpiece) or not steps <= INDEPENDENT_NORMALIZERS or any(
            " " in token["content"] or token["single_word"] for token in parts["added_tokens"]):
        return False
    encode = partial(tokenizer.encode, add_special_tokens=False)
    return encode(BLANKS).ids == [index for part in BLANKS.split(" ") if part for index in encode(part).ids]


def encode_blocks(blocks: Iterable[list], tokenizer: Tokenizer, num_workers: int,
                  language: str = "en") -> Iterator[EncodedBlock]:
    """Encode blocks in `num_workers` processes (0: in this one), in order, few blocks held at a time."""
    if num_workers < 1:
        yield from map(BlockEncoder(tokenizer, language), blocks)
        return
    workers, idle = [], SimpleQueue()
    threads = ThreadPoolExecutor(num_workers)

    def encode(block):
        worker = idle.get()
        try:
            return worker(block)
        finally:
            idle.put(worker)

    try:
        for _ in range(num_workers):
            workers.append(Worker(tokenizer, language))
            idle.put(workers[-1])
        pending = deque()
        for block in blocks:
            pending.append(threads.submit(encode, block))
            if len(pending) > 2 * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for worker in workers:
            worker.process.kill()
        threads.shutdown(cancel_futures=True)
        for worker in workers:
            worker.process.communicate()


def write_part(path: Path, blocks: Iterable[EncodedBlock]) -> None:
    """Keep encoded blocks in a file; without a block the file is empty."""
    with open(path, "wb") as file:
        for block in blocks:
            file.write(HEADER.pack(*map(len, block)))
            for array in block:
                file.write(array.data)
        file.flush()
        os.fsync(file.fileno())


def read_parts(paths: list[Path], dtype: str) -> Iterator[EncodedBlock]:
    """The blocks of files that hold every n-th block each, in the order of the text."""
    types = (np.dtype(dtype), np.dtype("<i8"), np.dtype("<i8"))
    with ExitStack() as stack:
        files = [stack.enter_context(open(path, "rb")) for path in paths]
        for file in cycle(files):
            header = file.read(HEADER.size)
            if not header:
                return
            yield EncodedBlock(*(np.frombuffer(file.read(count * kind.itemsize), kind)
                                 for count, kind in zip(HEADER.unpack(header), types)))


class Worker:
    """A process that encodes one block at a time; called from a thread, which waits meanwhile."""

    def __init__(self, tokenizer: Tokenizer, language: str = "en"):
        root = str(Path(__file__).resolve().parents[1])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"}
        self.dtype = token_dtype(vocabulary_size(tokenizer))
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import sys; from data.blocks import serve; serve(sys.argv[1])", language],
            cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._send(tokenizer.to_str().encode())

    def _send(self, message: bytes) -> None:
        try:
            self.process.stdin.write(struct.pack("<q", len(message)) + message)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _ended(self) -> DataError:
        return DataError(f"a tokenising process ended early (exit status {self.process.wait()}); where "
                         "memory ran out, fewer at a time may fit: set OMP_NUM_THREADS=1 before the command")

    def __call__(self, block: list[tuple[bool, str]]) -> EncodedBlock:
        try:
            self._send(json.dumps(block).encode())
            counts = HEADER.unpack(_read(self.process.stdout, HEADER.size))
            types = (self.dtype, np.dtype("<i8"), np.dtype("<i8"))
            return EncodedBlock(*(np.frombuffer(_read(self.process.stdout, count * dtype.itemsize), dtype)
                                  for count, dtype in zip(counts, types)))
        except EOFError:
            raise self._ended() from None


def _read(file, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def serve(language: str) -> None:
    """A worker's life: a tokenizer, then block after block, until the parent closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    source, sink = sys.stdin.buffer, sys.stdout.buffer

    def receive() -> bytes:
        return _read(source, struct.unpack("<q", _read(source, 8))[0])

    try:
        encode = BlockEncoder(Tokenizer.from_str(receive().decode()), language)
        while True:
            encoded = encode(json.loads(receive()))
            sink.write(HEADER.pack(*map(len, encoded)))
            for array in encoded:
                sink.write(array.data)
            sink.flush()
    except (EOFError, BrokenPipeError):
        os._exit(0)
