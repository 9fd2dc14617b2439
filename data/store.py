"""Token store: a corpus as ids on disk, tokenised once, mapped into memory, shared by runs.

A store is a folder with `tokens.bin`, `sentence_offsets.bin`, `document_offsets.bin` (little-endian) and
`meta.json`. It is built under a temporary name and renamed, so a folder `store-...` is always whole.
"""
import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from data.blocks import EncodedBlock, encode_blocks, paragraph_blocks, read_parts, token_dtype, write_part
from data.building import digest_of_files, disk_errors, publish, temporary_folder
from data.errors import DataError
from data.sentences import SPLITTER
from data.tokenizer import load_tokenizer, save_tokenizer, vocabulary_size
from data.tokenizer_training import train_tokenizer

FORMAT = 1
FILES = "tokens.bin", "sentence_offsets.bin", "document_offsets.bin"
ALONE = SimpleNamespace(rank=0, size=1, is_main=True, barrier=lambda: None, from_main=lambda make: make(),
                        main_first=contextlib.nullcontext)


class Store:
    """A corpus of D documents, S sentences and N tokens, without special tokens.

    tokens: (N,) uint16, uint32 where the vocabulary exceeds 65,536 pieces.
    sentence_offsets: (S + 1,) int64, each sentence's first token, then N; no sentence is empty.
    document_offsets: (D + 1,) int64, each document's first sentence, then S; no document is empty.
    """

    def __init__(self, path):
        """Map the store in the folder `path`; DataError where there is none or it is damaged."""
        self.path = Path(path)
        try:
            self.meta = meta = json.loads((self.path / "meta.json").read_text(encoding="utf-8"))
            self.num_tokens, self.num_sentences, self.num_documents = (
                meta[f"num_{what}"] for what in ("tokens", "sentences", "documents"))
            self.tokens = self._map("tokens", meta["token_dtype"], self.num_tokens)
            self.sentence_offsets = self._map("sentence_offsets", "<i8", self.num_sentences + 1)
            self.document_offsets = self._map("document_offsets", "<i8", self.num_documents + 1)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: no readable token store ({error}); delete it and it is built again") from None

    def _map(self, name: str, dtype: str, length: int) -> np.memmap:
        file = self.path / f"{name}.bin"
        if not file.is_file() or file.stat().st_size != length * np.dtype(dtype).itemsize:
            raise ValueError(f"{file.name} has not the {length:,} entries that meta.json says")
        return np.memmap(file, dtype, mode="r")


def prepare(source, cache_dir, *, tokenizer: str | None, kind: str, vocab_size: int,
            num_workers: int, language: str = "en", lower_case: bool = True, strip_accents: bool = True,
            progress: bool = True, announce: bool = True, world=ALONE) -> tuple[Store, Tokenizer]:
    """Tokenise `source` into a store in `cache_dir`, or open the one that is there already.

    tokenizer: path of one (see `load_tokenizer`), or None to train one of `kind` ("unigram", "wordpiece")
    and `vocab_size` on the source, by `lower_case` and `strip_accents` as `train_tokenizer` takes them.
    language: see `split_sentences`. num_workers: tokenising processes, 0 for none but this; the result
    does not depend on it. announce: print one line with the counts. world: the processes that share the
    work, each called with the same arguments and a `cache_dir` that all of them see (`trainer.distributed`);
    each tokenises its part of the blocks, the first one puts them together. DataError for an empty source, a
    tokenizer that lacks a special token, or a full disk.
    """
    cache_dir = Path(os.path.expanduser(cache_dir))
    with disk_errors(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
    if tokenizer is None:
        # not the run's seed: runs of several seeds share a vocabulary, and so their held-out targets
        with world.main_first():
            vocabulary = _trained_tokenizer(source, cache_dir, progress, kind=kind, vocab_size=vocab_size, seed=0,
                                            lower_case=lower_case, strip_accents=strip_accents)
    else:
        vocabulary = load_tokenizer(tokenizer)
    content = hashlib.sha256(vocabulary.to_str().encode()).hexdigest()
    path = cache_dir / f"store-{_digest(source.fingerprint(), content, FORMAT, SPLITTER, language)}"
    built = world.from_main(lambda: _open_whole(path) is None)
    if built:
        size = vocabulary_size(vocabulary)
        meta = {"format": FORMAT, "source": source.name, "vocab_size": size, "token_dtype": token_dtype(size).str,
                "tokenizer_sha256": content, "splitter": SPLITTER, "language": language}
        blocks = paragraph_blocks(_with_bar(source, "tokenising", progress))
        with contextlib.ExitStack() as stack:
            folder = world.from_main(lambda: stack.enter_context(temporary_folder(cache_dir)))
            _seen(folder, cache_dir, world)
            if world.size > 1:
                blocks = itertools.islice(blocks, world.rank, None, world.size)
            encoded = stack.enter_context(contextlib.closing(encode_blocks(blocks, vocabulary, num_workers, language)))
            if world.size > 1:
                with disk_errors(cache_dir):
                    write_part(folder / f"part-{world.rank}", encoded)
                world.barrier()
                encoded = read_parts([folder / f"part-{rank}" for rank in range(world.size)], meta["token_dtype"])
            if world.is_main:
                _write_store(encoded, folder, meta, cache_dir)
                for part in folder.glob("part-*"):
                    part.unlink()
                publish(folder, path, _open_whole)
        world.barrier()
    _seen(path, cache_dir, world)
    store = Store(path)
    if announce:
        print(f"{source.name}: {store.num_documents:,} documents, {store.num_sentences:,} sentences, "
              f"{store.num_tokens:,} tokens of {store.meta['vocab_size']:,} pieces"
              f"{'' if built else f' (from {cache_dir})'}")
    return store, vocabulary


def _seen(folder: Path, cache_dir: Path, world) -> None:
    if not folder.is_dir():
        raise DataError(f"--cache-dir {cache_dir}: the machine of process {world.rank} does not see what the "
                        "first process has there; name a folder that all machines share")


def _trained_tokenizer(source, cache_dir: Path, progress: bool, vocab_size: int, **settings) -> Tokenizer:
    folder = cache_dir / f"tokenizer-{_digest(source.fingerprint(), vocab_size, settings, FORMAT)}"
    if (folder / "tokenizer.json").is_file():
        return load_tokenizer(folder)
    paragraphs = (paragraph for _, paragraph in _with_bar(source, "reading for the tokenizer", progress))
    with contextlib.closing(paragraphs):
        tokenizer = train_tokenizer(paragraphs, vocab_size=vocab_size, progress=progress, **settings)
    if (size := vocabulary_size(tokenizer)) < vocab_size:
        print(f"{source.name}: the text supports {size:,} pieces, "
              f"fewer than vocab_size={vocab_size}")
    with disk_errors(cache_dir):
        save_tokenizer(tokenizer, folder)
    return tokenizer


def _digest(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:20]


def _with_bar(source, description: str, progress: bool) -> Iterable[tuple[bool, str]]:
    """The source's paragraphs, under a bar that counts bytes read."""
    with tqdm(total=source.total_bytes, desc=description, unit="B", unit_scale=True,
              disable=not progress) as bar:
        for item in source.paragraphs():
            yield item
            bar.update(source.bytes_read - bar.n)


def _write_store(blocks: Iterable[EncodedBlock], folder: Path, meta: dict, cache_dir: Path) -> None:
    """Write blocks, which come in the order of the text, and then `meta.json`."""
    num_tokens = num_sentences = num_documents = 0
    last_start = -1
    with contextlib.ExitStack() as stack:
        stack.enter_context(disk_errors(cache_dir))
        tokens, sentences, documents = files = [stack.enter_context(open(folder / name, "wb")) for name in FILES]
        sentences.write(np.zeros(1, "<i8").data)
        for block in blocks:
            # A document without a sentence begins where the next one does: one start for both.
            starts = np.unique(block.document_starts + num_sentences)
            starts = starts[starts > last_start]
            last_start = starts[-1] if len(starts) else last_start
            tokens.write(block.tokens.data)
            sentences.write((num_tokens + np.cumsum(block.sentence_lengths)).astype("<i8").data)
            documents.write(starts.astype("<i8").data)
            num_tokens += len(block.tokens)
            num_sentences += len(block.sentence_lengths)
            num_documents += len(starts)
        if not num_tokens:
            raise DataError(f"{meta['source']}: no text in this source")
        if last_start == num_sentences:  # the last document is empty: its start is the end of the others
            num_documents -= 1
        else:
            documents.write(np.array([num_sentences], "<i8").data)
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        meta |= {"num_documents": num_documents, "num_sentences": num_sentences, "num_tokens": num_tokens,
                 "text_sha256": digest_of_files(folder, FILES)}
        (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def _open_whole(path: Path) -> Store | None:
    """The store at `path`, or None where there is none, or one that lost a part and must be built again."""
    try:
        return Store(path)
    except DataError:
        return None
