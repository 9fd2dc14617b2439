"""Token store: a corpus as ids on disk, the same files byte for byte as the fast pipeline's.

A folder with ``tokens.bin``, ``sentence_offsets.bin``, ``document_offsets.bin`` (little-endian) and ``meta.json``,
made under a temporary name and renamed when it is whole.
"""
import hashlib
import json
import os
import sys
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from data.building import digest_of_files, disk_errors, publish, temporary_folder, whole
from data.errors import DataError
from data.native.tokenizer import Tokenizer, special_ids
from data.native.trainer import train_tokenizer
from data.native.vocabulary import load_tokenizer
from data.sentences import SPLITTER, split_sentences

FORMAT = 1
FILES = "tokens.bin", "sentence_offsets.bin", "document_offsets.bin"
CACHED_WORDS = 1 << 18       # about 50 MB


class Store:
    """A corpus of D documents, S sentences and N tokens, mapped into memory.

    tokens (N,) uint16, uint32 where the vocabulary exceeds 65,536 pieces; sentence_offsets (S + 1,) int64, each
    sentence's first token, then N; document_offsets (D + 1,) int64, each document's first sentence, then S.
    """

    def __init__(self, path):
        """Raises DataError where the folder ``path`` has no store or a damaged one."""
        self.path = Path(path)
        try:
            self.meta = meta = json.loads((self.path / "meta.json").read_text(encoding="utf-8"))
            self.num_tokens, self.num_sentences = meta["num_tokens"], meta["num_sentences"]
            self.num_documents = meta["num_documents"]
            self.tokens = self._map("tokens", meta["token_dtype"], self.num_tokens)
            self.sentence_offsets = self._map("sentence_offsets", "<i8", self.num_sentences + 1)
            self.document_offsets = self._map("document_offsets", "<i8", self.num_documents + 1)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: no readable token store ({error}); delete it and it is built again") from None

    def _map(self, name, dtype, length):
        mapped = np.memmap(self.path / f"{name}.bin", dtype, mode="r")
        if len(mapped) != length:
            raise ValueError(f"{name}.bin has {len(mapped):,} entries, not {length:,}")
        return mapped


def prepare(source, cache_dir, *, tokenizer: str | None, kind: str, vocab_size: int,
            num_workers: int = 0, language: str = "en", lower_case: bool = True, strip_accents: bool = True,
            progress: bool = True, announce: bool = True, world=None) -> tuple[Store, Tokenizer]:
    """Tokenise ``source`` into a store in ``cache_dir``, or open the one that is there already.

    tokenizer: path of one, or None to train a Unigram of ``vocab_size`` pieces on the source, of text in lower case and
    without accents unless they are to stay. language: see `split_sentences`. All in this process,
    whatever ``num_workers`` says; of the processes of ``world`` (`trainer.distributed`) the first one does it. DataError
    for an empty source, a tokenizer that can't be used, or a full disk.
    """
    cache_dir = Path(os.path.expanduser(cache_dir))
    with world.main_first() if world else nullcontext(), disk_errors(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
        if tokenizer is None:
            tokenizer = _trained(source, cache_dir, kind, progress, vocab_size=vocab_size, seed=0,
                                 lower_case=lower_case, strip_accents=strip_accents)
        else:
            tokenizer = load_tokenizer(tokenizer)
        content = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
        # Under a name of its own: a store that the fast pipeline built is not taken for one that this one built.
        path = cache_dir / f"store-native-{_digest(source.fingerprint(), content, FORMAT, SPLITTER, language)}"
        built = not _is_whole(path)
        if built:
            with temporary_folder(cache_dir) as folder:
                write_store(_with_progress(source, "tokenising", progress), tokenizer, folder, source.name, language)
                publish(folder, path, _is_whole)
    store = Store(path)
    if announce:
        print(f"{source.name}: {store.num_documents:,} documents, {store.num_sentences:,} sentences, "
              f"{store.num_tokens:,} tokens of {store.meta['vocab_size']:,} pieces"
              f"{'' if built else f' (from {cache_dir})'}")
    return store, tokenizer


class Words(dict):
    """The ids of each blank-separated word as bytes: looked up, or encoded when it is met for the first time.

    Neither tokenizer looks across a blank, so the ids of a text are those of its words. A special token that a text
    spells out becomes the unknown one: ``[SEP]`` in a text ends no segment.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.type = "H" if tokenizer.get_vocab_size() <= 1 << 16 else "I"
        self.unknown = special_ids(tokenizer).unk

    def __missing__(self, word: str) -> bytes:
        special = self.tokenizer.special
        ids = array(self.type, [self.unknown if i in special else i for i in self.tokenizer.encode(word)])
        if sys.byteorder == "big":
            ids.byteswap()
        self[word] = ids.tobytes()
        return self[word]

    def sentence(self, text: str) -> bytes:
        """The ids of a sentence."""
        if len(self) > CACHED_WORDS:
            self.clear()
        return b"".join(map(self.__getitem__, text.split(" ")))


def write_store(paragraphs: Iterable[tuple[bool, str]], tokenizer: Tokenizer, folder: Path, name: str,
                language: str = "en") -> None:
    """Write the store of ``(starts_document, paragraph)`` into ``folder``. Sentences and documents without a token
    leave no trace; DataError where nothing is left."""
    words = Words(tokenizer)
    width = array(words.type).itemsize
    num_tokens, sentence_offsets, document_offsets = 0, array("q", [0]), array("q")
    with open(folder / "tokens.bin", "wb") as tokens:
        starts = False
        for starts_document, paragraph in paragraphs:
            starts = starts or starts_document
            for sentence in split_sentences(paragraph, language):
                ids = words.sentence(sentence)
                if not ids:
                    continue
                if starts:
                    document_offsets.append(len(sentence_offsets) - 1)
                    starts = False
                tokens.write(ids)
                num_tokens += len(ids) // width
                sentence_offsets.append(num_tokens)
        tokens.flush()
        os.fsync(tokens.fileno())
    if not num_tokens:
        raise DataError(f"{name}: no text in this source")
    num_documents, num_sentences = len(document_offsets), len(sentence_offsets) - 1
    document_offsets.append(num_sentences)
    for offsets, file in ((sentence_offsets, "sentence_offsets.bin"), (document_offsets, "document_offsets.bin")):
        (folder / file).write_bytes(np.array(offsets, "<i8").tobytes())
    meta = {"format": FORMAT, "source": name, "vocab_size": tokenizer.get_vocab_size(),
            "token_dtype": f"<u{width}", "tokenizer_sha256": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
            "splitter": SPLITTER, "language": language, "num_documents": num_documents, "num_sentences": num_sentences,
            "num_tokens": num_tokens, "text_sha256": digest_of_files(folder, FILES)}
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def _is_whole(path: Path) -> bool:
    try:
        return bool(Store(path))
    except DataError:
        return False


def _trained(source, cache_dir: Path, kind: str, progress: bool, vocab_size: int, **settings) -> Tokenizer:
    """The Unigram vocabulary of the source, trained or from the cache."""
    if kind != "unigram":
        raise DataError(f"tokenizer_kind={kind}: the native pipeline trains unigram alone; give a {kind} vocabulary "
                        "by --tokenizer, or leave --preprocess native out")
    file = cache_dir / f"tokenizer-native-{_digest(source.fingerprint(), vocab_size, settings, FORMAT)}" / "tokenizer.json"
    if file.is_file():
        return load_tokenizer(file)
    paragraphs = (paragraph for _, paragraph in _with_progress(source, "reading for the tokenizer", progress))
    tokenizer = train_tokenizer(paragraphs, vocab_size, progress=progress, **settings)
    if tokenizer.get_vocab_size() < vocab_size:
        print(f"{source.name}: the text supports {tokenizer.get_vocab_size():,} pieces, "
              f"fewer than vocab_size={vocab_size}")
    file.parent.mkdir(exist_ok=True)
    with whole(file) as temporary:
        temporary.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    return tokenizer


def _digest(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:20]


def _with_progress(source, what: str, progress: bool) -> Iterator[tuple[bool, str]]:
    """The source's paragraphs; every ten seconds a line says how many bytes have been read."""
    said = time.monotonic()
    for item in source.paragraphs():
        yield item
        if progress and time.monotonic() - said > 10:
            said = time.monotonic()
            of = f" of {source.total_bytes / 1e6:,.1f}" if source.total_bytes else ""
            print(f"{what}: {source.bytes_read / 1e6:,.1f}{of} MB", file=sys.stderr, flush=True)
