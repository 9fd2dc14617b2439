"""The native pipeline's store and batches: the same files and arrays as the fast pipeline's, and the same run."""
import gzip
import json
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import arguments, refused
from test_examples import SPECIALS, STORE, VOCAB, WORD_STARTS
from test_native import EMBEDDED, folder, fuzzed  # noqa: F401
from test_store import Documents, build, files
from test_store import corpus as made_up

from data import draws, fast, native
from data.errors import DataError
from data.native import chance
from data.native.store import Store
from data.native.vocabulary import load_tokenizer as load_native
from data.sources import open_source
from data.tokenizer import load_tokenizer
from trainer.pretraining import split


def native_build(source, cache, tokenizer, **changes):
    settings = dict(kind="unigram", vocab_size=200, progress=False) | changes
    return native.prepare(source, cache, tokenizer=tokenizer, **settings)


def assert_same_store(source, cache, tokenizer, **changes):
    ours, theirs = (make(source, cache, tokenizer, **changes)[0] for make in (native_build, build))
    assert ours.path != theirs.path and files(ours) == files(theirs)
    assert {path.name for path in ours.path.iterdir()} == {"tokens.bin", "sentence_offsets.bin", "document_offsets.bin",
                                                           "meta.json"}
    return ours, theirs


def test_store_is_the_same_byte_for_byte(folder, tmp_path, capsys):  # noqa: F811
    source = made_up()
    source.documents[3:3] = [["  ", "\u0301"], []]      # documents without a sentence leave no trace
    source.documents += [EMBEDDED, fuzzed(300, 7), ["\u0301"]]
    ours, theirs = assert_same_store(source, tmp_path, folder)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == said[1] and f"{ours.num_tokens:,} tokens" in said[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.native.store.write_store", None)
        again, tokenizer = native_build(source, tmp_path, folder)
    assert again.path == ours.path and str(tmp_path) in capsys.readouterr().out
    assert_same_batches(again, theirs, np.arange(ours.num_documents), native.special_ids(tokenizer),
                        np.array(native.word_starts(tokenizer)))


def test_files_of_every_kind_from_the_first_byte(folder, tmp_path):  # noqa: F811
    text = tmp_path / "text"
    text.mkdir()
    lines = [line.replace("\x00", "") for line in EMBEDDED + fuzzed(200, 8)]
    (text / "a.txt").write_bytes("\ufeffThe old river.\r\n\r\nA market. Mr. Walk said it.\r\n".encode())
    (text / "b.txt").write_text("\n".join(lines), encoding="utf-8", newline="")
    (text / "c.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    with gzip.open(text / "d.csv.gz", "wt", encoding="utf-8") as file:
        file.write('text\n"quoted, ""old"" market."\n')
    for documents in ("file", "blank-line", "line"):
        assert_same_store(open_source([str(text)], documents=documents), tmp_path / documents, folder)


def test_large_vocabulary_takes_uint32(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(70_000))]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    ours, _ = assert_same_store(Documents([["w5 a w66000"]]), tmp_path / "cache", tmp_path)
    assert ours.tokens.dtype == np.uint32 and ours.tokens.tolist() == [10, 1, 66_005]


def test_a_vocabulary_with_a_piece_twice_leaves_an_id_without_one(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "the", "river", "##s", "market"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    ours, theirs = assert_same_store(Documents([["The river, a market.", "The rivers."]]), tmp_path, tmp_path)
    assert ours.tokens.max() == 10 and 7 in ours.tokens and ours.meta["vocab_size"] == 11
    for pipeline, tokenizer in (fast, load_tokenizer(tmp_path)), (native, load_native(tmp_path)):
        assert list(pipeline.word_starts(tokenizer)) == [True] * 9 + [False, True]


def test_public_text(shared, tmp_path):
    paths = [str(path) for path in sorted(shared.glob("pretrain/*/*.txt"))[::100]]
    assert_same_store(open_source(paths), tmp_path, shared / "vocab" / "30k-clean.model")


@pytest.mark.slow
def test_all_public_text(shared, tmp_path):
    """The whole of it, with the released and with a trained vocabulary, and the batches of its first epoch."""
    source = open_source([str(shared / "pretrain")])
    for name, tokenizer in (("released", shared / "vocab" / "30k-clean.model"), ("trained", None)):
        if tokenizer is None:
            made = build(source, tmp_path / "training", None)[1]
            made.save(str(tmp_path / "tokenizer.json"))
            tokenizer = tmp_path / "tokenizer.json"
        ours, theirs = assert_same_store(source, tmp_path / name, tokenizer)
        specials, starts = (native.special_ids(native_build(source, tmp_path / name, tokenizer)[1]),
                            native.word_starts(native_build(source, tmp_path / name, tokenizer)[1]))
        assert_same_batches(ours, theirs, np.arange(ours.num_documents), specials, np.array(starts), step=64,
                            seq_len=512)


def test_empty_source_and_faults(folder, tmp_path):  # noqa: F811
    for documents in ([], [[]], [["", " \n "]]):
        with pytest.raises(DataError, match="no text"):
            native_build(Documents(documents), tmp_path, folder)
    with pytest.raises(DataError, match="no text"):
        native_build(Documents([[""]]), tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    with pytest.raises(DataError, match="wordpiece.*--tokenizer"):
        native_build(made_up(), tmp_path, None, kind="wordpiece")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file.*--cache-dir"):
        native_build(made_up(), tmp_path / "file", folder)


def test_damaged_store_is_named_and_built_again(folder, tmp_path):  # noqa: F811
    store, _ = native_build(made_up(), tmp_path, folder)
    whole = files(store)
    for name, content in (("tokens.bin", b"12"), ("meta.json", b"{"), ("document_offsets.bin", b"")):
        (store.path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{store.path}.*delete"):
            Store(store.path)
        assert files(native_build(made_up(), tmp_path, folder)[0]) == whole
    (store.path / "meta.json").unlink()
    assert files(native_build(made_up(), tmp_path, folder)[0]) == whole


def test_another_process_was_first(folder, tmp_path, monkeypatch):  # noqa: F811
    first, _ = native_build(made_up(), tmp_path / "first", folder)
    theirs = tmp_path / "cache" / first.path.name

    def write(*args):
        shutil.copytree(first.path, theirs)
        (args[2] / "meta.json").write_text("{}")

    monkeypatch.setattr("data.native.store.write_store", write)
    assert files(native_build(made_up(), tmp_path / "cache", folder)[0]) == files(first)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["lock", first.path.name]


def test_what_a_killed_preparation_left_goes(folder, tmp_path):  # noqa: F811
    (tmp_path / "building-dead").mkdir()
    native_build(made_up(), tmp_path, folder)
    assert not (tmp_path / "building-dead").exists()


def test_draws_are_the_shared_ones():
    indices = [0, 1, 7, 2 ** 40, *random.Random(0).choices(range(2 ** 62), k=50)]
    for parts in ((0, "mask", 3), ("heldout",), (2 ** 40, "order", 0)):
        key = chance.key(*parts)
        assert key == draws.key(*parts)
        drawn = [chance.bits(key, index) for index in indices]
        assert drawn == draws.bits(key, np.array(indices)).tolist()
        assert [chance.uniform(bits) for bits in drawn] == draws.uniform(np.array(drawn, np.uint64)).tolist()
        assert [chance.below(bits, 29_995) for bits in drawn] == draws.below(np.array(drawn, np.uint64), 29_995).tolist()


def assert_same_batches(store, other, documents, specials, starts, *, epochs=(0,), step=7, **changes):
    settings = dict(seed=0, seq_len=64, mask_prob=0.15, max_ngram=3, whole_words=True, short_seq_prob=0.1,
                    sentence_objective="sop") | changes
    ours = native.PretrainingExamples(store, documents, specials, list(starts), **settings)
    theirs = fast.PretrainingExamples(other, documents, specials, starts, **settings)
    for epoch in epochs:
        plan, expected = ours.plan(epoch), theirs.plan(epoch)
        np.testing.assert_array_equal([(*sample,) for sample in plan.samples], np.stack(expected[:5], axis=1))
        np.testing.assert_array_equal(plan.length, expected.length)
        for first in range(0, len(plan.label), step):
            numbers = np.arange(first, min(first + step, len(plan.label)))
            batch, wanted = ours.batch(epoch, numbers), theirs.batch(epoch, numbers)
            assert batch.keys() == wanted.keys()
            for name in batch:
                np.testing.assert_array_equal(batch[name], wanted[name], name)
                assert batch[name].dtype == wanted[name].dtype, name


@pytest.mark.parametrize("changes", [
    {}, dict(seed=5, epochs=(0, 3)), dict(sentence_objective="nsp"), dict(sentence_objective="none", whole_words=False),
    dict(max_ngram=1, mask_prob=0.3), dict(seq_len=8, short_seq_prob=1), dict(seq_len=512, max_ngram=6, short_seq_prob=0),
    dict(mask_prob=0.001),
])
def test_batches_are_equal(changes):
    assert_same_batches(STORE, STORE, np.arange(STORE.num_documents), SPECIALS, WORD_STARTS, **changes)


def test_batches_of_some_documents_and_of_a_single_one():
    assert_same_batches(STORE, STORE, np.array([3, 4, 17, 40]), SPECIALS, WORD_STARTS, sentence_objective="nsp")
    whole = SimpleNamespace(**vars(STORE) | {"num_documents": 1, "document_offsets": np.array([0, STORE.num_sentences])})
    view, training, heldout = split(whole, 0.3)
    for documents in (training, heldout):
        assert_same_batches(view, view, documents, SPECIALS, WORD_STARTS)


@pytest.mark.parametrize("changes, message", [
    (dict(sentence_objective="order"), "sop, nsp and none"), (dict(seq_len=4), "seq_len=4")])
def test_refusals(changes, message):
    with pytest.raises(DataError, match=message):
        assert_same_batches(STORE, STORE, [0], SPECIALS, WORD_STARTS, **changes)
    with pytest.raises(DataError, match="another document"):
        native.PretrainingExamples(STORE, [1], SPECIALS, [True] * VOCAB, seed=0, seq_len=64, mask_prob=0.15, max_ngram=3,
                                   whole_words=True, short_seq_prob=0.1, sentence_objective="nsp").plan(0)


def records(run):
    timed = ("tokens_per_second", "data_wait_share", "mfu", "peak_memory")
    lines = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


def test_run_is_the_same_and_resumes_without_a_flag(corpus, tmp_path, pretrain):
    cache, native_flag = tmp_path / "cache", ["--preprocess", "native"]
    assert pretrain(arguments(corpus, cache, tmp_path / "native", ["max_steps=8"], native_flag)).code == 0
    ours, = (tmp_path / "native").iterdir()
    assert json.loads((ours / "config.json").read_text())["preprocess"] == "native"
    given = ["--tokenizer", str(ours)]
    assert pretrain(arguments(corpus, cache, tmp_path / "fast", ["max_steps=8"], given)).code == 0
    theirs, = (tmp_path / "fast").iterdir()
    assert records(ours) == records(theirs)
    assert (ours / "tokenizer.json").read_bytes() == (theirs / "tokenizer.json").read_bytes()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        paths = [run / "checkpoints" / "step-0000008" / name for run in (ours, theirs)]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    stores = {path.name.removeprefix("store-").removeprefix("native-"): path for path in cache.glob("store-*")}
    assert len(stores) == 1 and len(list(cache.glob("store-*"))) == 2

    before = records(ours)
    shutil.rmtree(ours / "checkpoints" / "step-0000008")
    assert pretrain(["--resume", str(ours), "--tqdm-off"]).code == 0
    assert records(ours) == before
    refused(pretrain(["--resume", str(ours), "--tqdm-off", "--preprocess", "fast"]), "preprocess=native")
    refused(pretrain(["--resume", str(theirs), "--tqdm-off", *native_flag]), "preprocess=fast")


def test_run_from_before_the_flag_is_fast(corpus, cache, tmp_path, pretrain):
    assert pretrain(arguments(corpus, cache, tmp_path, ["max_steps=4"])).code == 0
    run, = tmp_path.iterdir()
    config = json.loads((run / "config.json").read_text())
    del config["preprocess"]
    (run / "config.json").write_text(json.dumps(config))
    refused(pretrain(["--resume", str(run), "--preprocess", "native"]), "preprocess=fast")
    assert pretrain(["--resume", str(run), "--tqdm-off"]).code == 0


def test_unknown_pipeline(corpus, cache, tmp_path, pretrain):
    refused(pretrain(arguments(corpus, cache, tmp_path, [], ["--preprocess", "quick"])), "quick", "fast, native")
