"""Token store: against encoding each sentence by itself; built by any number of processes; never half."""
import fcntl
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

import data.blocks
from data.blocks import BlockEncoder, encode_blocks, encodes_by_word, paragraph_blocks, token_dtype
from data.errors import DataError
from data.sentences import split_sentences
from data.store import Store, prepare
from data.tokenizer import load_tokenizer, save_tokenizer, special_ids
from data.tokenizer_training import train_tokenizer
from trainer.distributed import World

ROOT = Path(__file__).resolve().parents[1]


class Documents:
    """A source of documents in memory, each a list of paragraphs."""

    def __init__(self, documents, name="memory"):
        self.documents, self.name, self.bytes_read = documents, name, 0
        self.total_bytes = sum(len(p.encode()) for document in documents for p in document)

    def fingerprint(self):
        return {"documents": hashlib.sha256(json.dumps(self.documents).encode()).hexdigest()}

    def paragraphs(self):
        self.bytes_read = 0
        for document in self.documents:
            for index, paragraph in enumerate(document):
                self.bytes_read += len(paragraph.encode())
                yield index == 0, paragraph


def corpus(documents=12, seed=0):
    chance = random.Random(seed)
    words = "the a river runs old Mr. market town said naïve “quoted” 1990, it's Dr. walk walked".split()

    def paragraph():
        return " ".join(" ".join(chance.choices(words, k=8)).capitalize() + chance.choice(".!?")
                        for _ in range(chance.randint(1, 4)))

    return Documents([[paragraph() for _ in range(chance.randint(1, 9))] for _ in range(documents)])


@pytest.fixture(scope="module", params=["unigram", "wordpiece"])
def tokenizer_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    texts = (text for _, text in corpus().paragraphs())
    save_tokenizer(train_tokenizer(texts, request.param, 200, 0, progress=False), folder)
    return folder


def build(source, cache, tokenizer, num_workers=0, **changes):
    settings = dict(kind="unigram", vocab_size=200, progress=False) | changes
    return prepare(source, cache, tokenizer=tokenizer, num_workers=num_workers, **settings)


def files(store):
    return {path.name: path.read_bytes() for path in store.path.iterdir()}


def test_store_holds_each_sentence_in_order(tokenizer_folder, tmp_path, capsys):
    source = corpus()
    source.documents[3:3] = [["  ", "\u0301"], []]  # documents without a sentence leave no trace
    source.documents.append(["\u0301"])
    store, tokenizer = build(source, tmp_path, tokenizer_folder)
    wanted = [[ids for paragraph in document for sentence in split_sentences(paragraph)
               if (ids := tokenizer.encode(sentence, add_special_tokens=False).ids)]
              for document in source.documents]
    wanted = [document for document in wanted if document]
    offsets = store.sentence_offsets
    found = [[store.tokens[offsets[s]:offsets[s + 1]].tolist() for s in range(first, last)]
             for first, last in zip(store.document_offsets, store.document_offsets[1:])]
    assert found == wanted
    assert (store.num_documents, store.num_sentences) == (12, sum(map(len, wanted)))
    assert store.tokens.dtype == np.uint16 and offsets.dtype == store.document_offsets.dtype == np.int64
    assert offsets[0] == store.document_offsets[0] == 0
    assert offsets[-1] == store.num_tokens == len(store.tokens)
    assert store.document_offsets[-1] == store.num_sentences == len(offsets) - 1
    assert f"memory: 12 documents, {store.num_sentences:,} sentences, {store.num_tokens:,} tokens" in \
        capsys.readouterr().out


def test_number_of_workers_changes_no_byte(tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(data.blocks, "BLOCK_CHARACTERS", 300)
    stores = [build(corpus(), tmp_path / str(n), tokenizer_folder, n)[0] for n in (0, 1, 3)]
    assert files(stores[0]) == files(stores[1]) == files(stores[2])
    monkeypatch.setattr(data.blocks, "BLOCK_CHARACTERS", 1 << 20)
    whole = build(corpus(), tmp_path / "whole", tokenizer_folder)[0]
    assert files(whole) == files(stores[0])


def nasty_texts(count, seed):
    """Lines of every Unicode plane, marks, controls, blanks, quotes and spelled-out special tokens."""
    chance = random.Random(seed)
    atoms = ["a", "The", "naïve", "``", "''", "`", "'", " ", "  ", "\t", "\u00a0", "\u200b", "\u200d",
             "\ufeff", "\u0301", "\u3099", "\u00a8", "¨x", "\r\n", "\x00", "\x1c", "\x85", "▁", "[MASK]",
             "[SEP]", "<pad>", "<unk>", "#", "##s", "東京", "한국", "é", "e\u0301", "ﬁ", "½", "👩‍👩‍👧", "🏻", "❤️",
             "İ", "ΟΔΟΣ", ".", ",", "\""]

    def atom():
        if chance.random() < 0.8:
            return chance.choice(atoms)
        point = chance.randrange(0x20, 0x110000)
        return chr(point) if not 0xD800 <= point < 0xE000 else " "

    return ["".join(atom() for _ in range(chance.randint(1, 30))) for _ in range(count)]


def assert_words_are_independent(tokenizer, texts):
    assert encodes_by_word(tokenizer)
    encode = BlockEncoder(tokenizer)
    unknown, special = special_ids(tokenizer).unk, set(vars(special_ids(tokenizer)).values())
    encoded, lengths = encode._by_word(texts)
    for text, row in zip(texts, np.split(np.frombuffer(b"".join(encoded), encode.dtype), np.cumsum(lengths))):
        whole = [unknown if index in special else index
                 for index in tokenizer.encode(text, add_special_tokens=False).ids]
        assert row.tolist() == whole, repr(text)


def test_words_one_by_one_give_the_ids_of_the_whole_text(tokenizer_folder):
    assert_words_are_independent(load_tokenizer(tokenizer_folder), nasty_texts(3000, 1))


def test_words_one_by_one_with_the_released_vocabulary(shared):
    assert_words_are_independent(load_tokenizer(shared / "vocab" / "30k-clean.model"), nasty_texts(3000, 2))


def test_tokenizer_that_sees_across_blanks_is_used_as_a_whole():
    tokenizer = Tokenizer(models.BPE({"<unk>": 0, "a": 1, "Ġ": 2, "Ġa": 3}, [("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert not encodes_by_word(tokenizer)
    encoded = BlockEncoder(tokenizer)([(True, "a a")])
    assert encoded.tokens.tolist() == [1, 3]


@pytest.mark.parametrize("normalizer, by_word", [
    (None, False), (normalizers.NFKC(), False), (normalizers.Replace(" ", "b"), False), (normalizers.Strip(), False),
    (normalizers.Sequence([normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), " ")]), False),
    (normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Strip(),
                           normalizers.Replace(Regex(" {2,}"), "▁")]), True)])
def test_a_text_of_several_blanks_in_a_row_is_encoded_as_by_its_tokenizer(normalizer, by_word):
    pieces = ["<unk>", "▁", "a", "b", "▁a", ".", "\t", "\u00a0"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0 - index) for index, piece in enumerate(pieces)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    text = "a  b\u00a0 a \u00a0b   ab."
    assert BlockEncoder(tokenizer)([(True, text)]).tokens.tolist() == tokenizer.encode(text).ids
    assert encodes_by_word(tokenizer) == by_word


def test_special_tokens_in_the_text_become_unknown(tokenizer_folder, tmp_path):
    source = Documents([["the [SEP] old [MASK] <pad> [PAD] river"]])
    store, tokenizer = build(source, tmp_path, tokenizer_folder)
    special = special_ids(tokenizer)
    assert not {special.pad, special.cls, special.sep, special.mask} & set(store.tokens.tolist())
    assert special.unk in store.tokens


def test_words_that_are_forgotten_are_encoded_again(tokenizer_folder, monkeypatch):
    monkeypatch.setattr(data.blocks, "CACHED_WORDS", 3)
    tokenizer = load_tokenizer(tokenizer_folder)
    encode, second = BlockEncoder(tokenizer), [(True, "the market said old.")]
    encode([(True, "the old river runs.")])
    assert encode(second).tokens.tolist() == BlockEncoder(tokenizer)(second).tokens.tolist()
    assert "river" not in encode.words


def test_large_vocabulary_takes_uint32(tmp_path):
    assert [token_dtype(size) for size in (1 << 16, (1 << 16) + 1)] == ["<u2", "<u4"]
    vocabulary = {f"w{index}": index for index in range(70_000)} | {"a": 70_000, "[UNK]": 70_001}
    vocabulary |= {token: 70_002 + index for index, token in enumerate(("[PAD]", "[CLS]", "[SEP]", "[MASK]"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    store, _ = build(Documents([["w5 a w66000"]]), tmp_path, tmp_path, num_workers=1)
    assert store.tokens.dtype == np.uint32 and store.tokens.tolist() == [5, 70_000, 66_000]


def test_a_tokenizer_without_special_tokens_is_refused_before_the_text(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="no token <pad>"):
        build(None, tmp_path, tmp_path)


def test_second_start_opens_the_cached(tokenizer_folder, tmp_path, monkeypatch, capsys):
    first, _ = build(corpus(), tmp_path, tokenizer_folder)
    monkeypatch.setattr("data.store.encode_blocks", None)
    again, _ = build(corpus(), tmp_path, tokenizer_folder)
    assert again.path == first.path and str(tmp_path) in capsys.readouterr().out.splitlines()[-1]


def test_other_text_tokenizer_or_splitter_is_another_store(tmp_path, monkeypatch, tokenizer_folder):
    first = build(corpus(), tmp_path, tokenizer_folder)[0].path
    other = build(corpus(seed=1), tmp_path, tokenizer_folder)[0].path
    monkeypatch.setattr("data.store.SPLITTER", "sentencex 0")
    split = build(corpus(), tmp_path, tokenizer_folder)[0].path
    language = build(corpus(), tmp_path, tokenizer_folder, language="de")[0].path
    monkeypatch.setattr("data.store.FORMAT", 0)
    form = build(corpus(), tmp_path, tokenizer_folder)[0].path
    texts = (text for _, text in corpus(seed=1).paragraphs())
    save_tokenizer(train_tokenizer(texts, "unigram", 85, 0, progress=False), tmp_path)
    trained = build(corpus(), tmp_path, tmp_path)[0].path
    assert len({first, other, split, language, form, trained}) == 6


def test_trained_tokenizer_is_cached(tmp_path, monkeypatch):
    first = build(corpus(), tmp_path, None)[1]
    monkeypatch.setattr("data.store.train_tokenizer", None)
    assert build(corpus(), tmp_path, None)[1].to_str() == first.to_str()


def test_a_tokenizer_is_trained_for_each_text_and_setting(tmp_path, capsys):
    made = {}
    for name, source, changes in (("plain", corpus(), {}), ("other", corpus(seed=1), {}), ("small", corpus(), dict(vocab_size=85)),
                                  ("cased", corpus(), dict(lower_case=False)), ("marked", corpus(), dict(strip_accents=False))):
        made[name] = build(source, tmp_path, None, **changes)[1]
    assert len({tokenizer.to_str() for tokenizer in made.values()}) == 5
    for name, text in (("cased", "T"), ("marked", "ï")):
        pieces = ["".join(made[which].encode("The naïve").tokens) for which in (name, "plain")]
        assert text in pieces[0] and text not in pieces[1]
    capsys.readouterr()
    build(corpus(), tmp_path, None, vocab_size=5000)
    assert "fewer than vocab_size=5000" in capsys.readouterr().out
    build(corpus(), tmp_path / "fresh", None, vocab_size=90)
    assert "fewer than" not in capsys.readouterr().out


def test_text_cut_otherwise_is_another(tokenizer_folder, tmp_path):
    one, two = (build(Documents(documents), tmp_path, tokenizer_folder)[0]
                for documents in ([["The river.", "A market."]], [["The river."], ["A market."]]))
    assert np.array_equal(one.tokens, two.tokens) and one.meta["text_sha256"] != two.meta["text_sha256"]


def test_a_cache_in_the_home_folder(tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build(corpus(), "~/cache", tokenizer_folder)[0].path.parent == tmp_path / "cache"


@pytest.mark.parametrize("documents", [[], [[]], [["", " \n "]]])
def test_empty_source(documents, tokenizer_folder, tmp_path):
    with pytest.raises(DataError, match="no text"):
        build(Documents(documents), tmp_path, tokenizer_folder)
    with pytest.raises(DataError, match="no text"):
        build(Documents(documents), tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_truncated_store_is_built_again(tokenizer_folder, tmp_path):
    store, _ = build(corpus(), tmp_path, tokenizer_folder)
    whole = files(store)
    for name in ("tokens.bin", "document_offsets.bin", "meta.json"):
        os.truncate(store.path / name, 10)
        with pytest.raises(DataError, match=str(store.path)):
            Store(store.path)
        assert files(build(corpus(), tmp_path, tokenizer_folder)[0]) == whole


PREPARE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)       # what a shell starts behind itself ignores it
sys.path[:0] = [{root!r}, {tests!r}]
from test_store import build, corpus

class Slow(type(corpus())):
    def paragraphs(self):
        for item in super().paragraphs():
            yield item
            if item[0]:
                print("reading", flush=True)
                sys.stdin.readline()

source = corpus()
source.__class__ = Slow
build(source, {cache!r}, {tokenizer!r}, num_workers={workers})
"""


def start(cache, tokenizer, workers=0, **options):
    """A process that prepares a store; before it goes on after a document's first paragraph it waits for a line."""
    code = PREPARE.format(root=str(ROOT), tests=str(ROOT / "tests"), cache=str(cache), tokenizer=str(tokenizer),
                          workers=workers)
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            **options)


def test_killed_preparation_leaves_nothing_that_is_trusted(tokenizer_folder, tmp_path):
    process = start(tmp_path, tokenizer_folder)
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(list(tmp_path.glob("building-*"))) == 1 and not list(tmp_path.glob("store-*"))
    store, _ = build(corpus(), tmp_path, tokenizer_folder)
    assert not list(tmp_path.glob("building-*")) and store.num_documents == 12


def test_folder_of_a_living_process_is_left_alone(tokenizer_folder, tmp_path):
    building = tmp_path / "building-other"
    building.mkdir()
    with open(building / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build(corpus(), tmp_path, tokenizer_folder)
        assert building.is_dir()


def test_two_processes_prepare_the_same_at_once(tokenizer_folder, tmp_path):
    both = [start(tmp_path, tokenizer_folder, workers=1) for _ in range(2)]
    for process in both:                       # neither has found a store when the other begins
        assert process.stdout.readline() == "reading\n"
    for process in both:
        process.stdin.write("\n" * 12)
        process.stdin.flush()
    lines = [process.communicate()[0].splitlines()[-1] for process in both]
    assert [process.returncode for process in both] == [0, 0] and lines[0] == lines[1]
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == ["lock", "store"]
    alone = build(corpus(), tmp_path / "alone", tokenizer_folder)[0]
    assert files(alone) == files(build(corpus(), tmp_path, tokenizer_folder)[0])


def test_interrupt_removes_the_half_built(tokenizer_folder, tmp_path):
    process = start(tmp_path, tokenizer_folder, workers=1, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_full_disk(tokenizer_folder, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # no file may grow further
    try:
        with pytest.raises(DataError, match=f"{tmp_path}: File too large .*--cache-dir"):
            build(corpus(documents=100), tmp_path, tokenizer_folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_cache_that_cannot_be_written(tokenizer_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file.*--cache-dir"):
        build(corpus(), tmp_path / "file", tokenizer_folder)


def test_killed_worker_is_one_clear_line(tokenizer_folder, monkeypatch):
    monkeypatch.setattr(data.blocks, "BLOCK_CHARACTERS", 300)
    encoded = encode_blocks(paragraph_blocks(corpus(200).paragraphs()), load_tokenizer(tokenizer_folder), 1)
    next(encoded)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if not children.is_file():
        pytest.skip("needs /proc")
    for child in children.read_text().split():
        os.kill(int(child), signal.SIGKILL)
    with pytest.raises(DataError, match=r"exit status -9.*OMP_NUM_THREADS"):
        list(encoded)


def test_a_worker_that_dies_at_once_is_one_clear_line(tokenizer_folder, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DataError, match=r"exit status 1.*OMP_NUM_THREADS"):
        list(encode_blocks(paragraph_blocks(corpus(20).paragraphs()), load_tokenizer(tokenizer_folder), 1))


def child_processes():
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="Linux alone lists the children of a process there")
def test_closing_early_ends_the_workers(tokenizer_folder):
    before = child_processes()
    encoded = encode_blocks(iter([[(True, "The old river.")]] * 50), load_tokenizer(tokenizer_folder), 2)
    next(encoded)
    assert len(child_processes() - before) == 2
    started = time.monotonic()
    encoded.close()
    assert time.monotonic() - started < 5
    assert child_processes() == before


def test_workers_import_no_torch():
    code = "import sys, data.blocks; print('torch' in sys.modules, 'datasets' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split() == ["False", "False"]


@pytest.mark.slow
def test_memory_stays_flat(tokenizer_folder, tmp_path):
    """200 MB of text with two workers: less than 1 GB, this process and the workers together."""
    if tokenizer_folder.name.startswith("wordpiece"):
        pytest.skip("one kind is enough")
    code = PREPARE.format(root=str(ROOT), tests=str(ROOT / "tests"), cache=str(tmp_path),
                          tokenizer=str(tokenizer_folder), pause=0, workers=2, documents=1)
    code = code.replace("source = corpus", "documents = corpus(200).documents\nsource = corpus").replace(
        "build(source", "source.documents = documents * 1500\nsource.fingerprint = dict\nbuild(source") + (
        "\nimport resource\nown = open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]\n"   # ru_maxrss is
        "print(source.bytes_read, [int(own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss])")    # pytest's, too
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    size, memory = run.stdout.splitlines()[-1].split(maxsplit=1)
    parent, worker = json.loads(memory)
    assert int(size) > 150e6 and (parent + 2 * worker) * 1024 < 1e9


class Together:
    """A world of threads."""

    def __init__(self, rank, size, meeting, board):
        self.rank, self.size, self.is_main, self.board = rank, size, rank == 0, board
        self.barrier = meeting.wait

    def from_main(self, make):
        if self.is_main:
            try:
                self.board["made"] = make()
            except Exception:
                self.barrier.__self__.abort()
                raise
        self.barrier()
        made = self.board["made"]
        self.barrier()
        return made

    main_first = World.main_first


def build_together(cache, tokenizer, size, make_source=corpus):
    """What `prepare` returns or raises in each of ``size`` processes."""
    meeting, board = threading.Barrier(size, timeout=60), {}

    def one(rank):
        try:
            return prepare(make_source(), cache, tokenizer=tokenizer, kind="unigram", vocab_size=200, num_workers=0,
                           progress=False, announce=rank == 0, world=Together(rank, size, meeting, board))
        except Exception as error:
            meeting.abort()
            return error

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(one, range(size)))


@pytest.mark.parametrize("size", [2, 3, 40])
@pytest.mark.parametrize("given", [True, False])
def test_processes_share_the_work(tokenizer_folder, tmp_path, monkeypatch, capsys, size, given):
    """Byte for byte the store of one process, also where there are fewer blocks than processes."""
    monkeypatch.setattr("data.blocks.BLOCK_CHARACTERS", 500)
    tokenizer = tokenizer_folder if given else None
    alone, vocabulary = build(corpus(), tmp_path / "alone", tokenizer)
    capsys.readouterr()
    stores = build_together(tmp_path / "together", tokenizer, size)
    assert {store.path for store, _ in stores} == {tmp_path / "together" / alone.path.name}
    assert files(stores[0][0]) == files(alone)
    assert {made.to_str() for _, made in stores} == {vocabulary.to_str()}
    assert len(capsys.readouterr().out.splitlines()) <= 2 and not list((tmp_path / "together").glob("building-*"))


def test_one_of_several_processes_fails(tokenizer_folder, tmp_path):
    class Failing:
        name, total_bytes, bytes_read, made = "failing", None, 0, []
        fingerprint = staticmethod(lambda: corpus().fingerprint())

        def paragraphs(self):
            yield from corpus().paragraphs()
            self.made.append(self)
            if len(self.made) == 2:
                raise DataError("the disk of this machine is gone")

    results = build_together(tmp_path, tokenizer_folder, 2, Failing)
    assert any(isinstance(result, DataError) for result in results)
    assert not list(tmp_path.glob("store-*")) and not list(tmp_path.glob("building-*"))


@pytest.mark.parametrize("unseen", ["building-", "store-"])
def test_a_cache_that_is_not_shared(tokenizer_folder, tmp_path, monkeypatch, unseen):
    """... by the machine of another process: neither what is being built nor what the first one has already."""
    if unseen == "store-":
        build(corpus(), tmp_path, tokenizer_folder)
    monkeypatch.setattr(Path, "is_dir", lambda path: not path.name.startswith(unseen))
    results = build_together(tmp_path, tokenizer_folder, 2)
    assert any(isinstance(result, DataError) and "--cache-dir" in str(result) for result in results)
    assert bool(list(tmp_path.glob("store-*"))) == (unseen == "store-")
