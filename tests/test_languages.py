"""Text in other languages than English: vocabularies, whole words and sentences, in both pipelines."""
import json
import random
import textwrap

import pytest
import sentencepiece
from conftest import arguments, refused
from sentencex import segment
from test_native_store import assert_same_store, native_build
from test_store import Documents, build, files

from data import fast, native
from data.errors import DataError
from data.native.vocabulary import load_tokenizer as load_native
from data.sentences import LONGEST, UNPARTED, split_sentences
from data.tokenizer import bert_tokenizer, load_tokenizer, save_tokenizer
from data.tokenizer_training import train_tokenizer

CHINESE = "这是一个句子。那边有山和水，还有人家。" * 200           # no blank, more than 4,192 bytes
RUSSIAN = ["старая река течёт через город.", "на рынке продают хлеб и молоко.", "дети бегут по старому мосту."]


def both(path):
    """(pipeline, tokenizer) of the fast and of the native pipeline."""
    return [(fast, load_tokenizer(path)), (native, load_native(path))]


def ids_of(tokenizer, text):
    encoded = tokenizer.encode(text)
    return getattr(encoded, "ids", encoded)


def trained(path, **settings):
    """The file of a SentencePiece model of a few German lines."""
    lines = ["Der Müller wohnt in München.", "Übung macht den Meister.", "Im Garten blühen schöne Äpfel."] * 30
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_prefix=str(path / "german"), vocab_size=90,
                                             hard_vocab_limit=False, minloglevel=2, **settings)
    return path / "german.model"


SPECIALS = dict(pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=["[CLS]", "[SEP]", "[MASK]"])


@pytest.mark.parametrize("end", ["。", "！」"])
def test_long_chinese_is_cut_into_the_same_sentences_in_parts(end):
    """The splitter's time for them grows as their square."""
    text = "".join("山" * (number % 37 + 3) + end for number in range(1200))
    assert len(text) > 2 * UNPARTED
    assert split_sentences(text, "zh") == [sentence.strip() for sentence in segment("zh", text)]


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_a_vocabulary_is_trained_on_paragraphs_without_blanks(kind):
    tokenizer = train_tokenizer([CHINESE, "短句。"], kind, 200, 0, progress=False)
    assert "山" in "".join(tokenizer.get_vocab()) and 1 not in tokenizer.encode("那边有山和水").ids


def test_a_vocabulary_keeps_its_case_and_accents(tmp_path):
    model = trained(tmp_path, **SPECIALS)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for _, tokenizer in both(model):
        assert [i for i in ids_of(tokenizer, "Der Müller übt.") if i > 4] == reference.encode("Der Müller übt.")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    for _, tokenizer in both(model):
        assert ids_of(tokenizer, "DER") == ids_of(tokenizer, "der")


def test_a_vocabulary_without_special_tokens_is_told_how_to_have_them(tmp_path):
    model = trained(tmp_path)
    for load in (load_tokenizer, load_native):
        with pytest.raises(DataError, match=r"german\.model: .*no token.*--control_symbols=\[CLS\],\[SEP\],\[MASK\]"):
            load(model)


def test_another_name_than_vocab_txt(tmp_path):
    (tmp_path / "german-vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nder\n")
    for _, tokenizer in both(tmp_path / "german-vocab.txt"):
        assert tokenizer.get_vocab()["der"] == 5


@pytest.mark.parametrize("lower_case, strip_accents, found", [
    (True, True, "dermuller"), (False, False, "DerMüller"), (True, False, "dermüller")])
def test_case_and_accents_of_a_trained_vocabulary(lower_case, strip_accents, found, tmp_path):
    source = Documents([["Der Müller mahlt. Das Mädchen hört die Mühle."] * 5] * 4)
    kept = dict(lower_case=lower_case, strip_accents=strip_accents)
    for kind, make in (("unigram", build), ("unigram", native_build), ("wordpiece", build)):
        store, tokenizer = make(source, tmp_path / kind, None, **kept, kind=kind)
        pieces = [tokenizer.id_to_token(i) for i in ids_of(tokenizer, "Der Müller") if i > 4]
        assert "".join(pieces).replace("▁", "").replace("##", "") == found
    assert len(list((tmp_path / "unigram").glob("tokenizer-*"))) == 2                 # of the fast and the native one


@pytest.mark.parametrize("begins, continues", [
    (["▁река", "7", "山", "の", "ก", "<", "'"], ["река", "ή", "ش", "दी", "ß", "s", ".a"])])
def test_pieces_that_begin_a_word(begins, continues, tmp_path):
    tokenizer = train_tokenizer(RUSSIAN, "unigram", 200, 0, progress=False)
    parts = json.loads(tokenizer.to_str())
    parts["model"]["vocab"] += [[piece, -20.0 - number] for number, piece in enumerate(begins + continues)
                                if piece not in tokenizer.get_vocab()]
    (tmp_path / "tokenizer.json").write_text(json.dumps(parts))
    for pipeline, read in both(tmp_path):
        starts, ids = pipeline.word_starts(read), read.get_vocab()
        assert all(starts[ids[piece]] for piece in begins) and not any(starts[ids[piece]] for piece in continues)


def test_sentences_of_a_language(tmp_path):
    text = "Am 3. Mai kam er. Dann ging er."
    assert split_sentences(text, "de") == ["Am 3. Mai kam er.", "Dann ging er."] != split_sentences(text)
    source = Documents([[text]])
    tokenizer = bert_tokenizer({piece: i for i, piece in enumerate(
        "[PAD] [UNK] [CLS] [SEP] [MASK] am 3 . mai kam er dann ging".split())})
    save_tokenizer(tokenizer, tmp_path)
    german, english = (assert_same_store(source, tmp_path, tmp_path, language=language)[0] for language in ("de", "en"))
    assert german.num_sentences == 2 < english.num_sentences and german.path != english.path
    assert files(build(source, tmp_path / "worker", tmp_path, 1, language="de")[0]) == files(german)


def test_no_text_without_sentence_ends_is_lost():
    words = " ".join(random.Random(0).choices(["old", "river", "market"], k=3000))
    parts = split_sentences(words)
    assert " ".join(parts) == words and LONGEST - 10 < len(parts[0]) <= LONGEST
    assert split_sentences("x" * 2500) == ["x" * LONGEST] * 2 + ["x" * 500]
    assert split_sentences("A sentence. Another.") == ["A sentence.", "Another."]


def test_an_unknown_language_is_refused(corpus, cache, tmp_path, pretrain):
    refused(pretrain(arguments(corpus, cache, tmp_path, ["language=english"])), "language=english", "de")
    refused(pretrain(arguments(corpus, cache, tmp_path, ["language=jp"])), "language=jp", "--set language=ja")
    refused(pretrain(arguments(corpus, cache, tmp_path, ["language=deu"])), "language=deu", "--set language=de")


def test_padding_has_the_id_that_the_vocabulary_says(corpus, cache, tmp_path, pretrain):
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    pieces = letters + ["##" + letter for letter in letters] + [".", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    result = pretrain(arguments(corpus, cache, tmp_path / "runs", ["max_steps=3"],
                                ["--tokenizer", str(tmp_path / "vocab.txt")]))
    assert result.code == 0 and "vocab_size=200 is not used" in result.out
    run, = (tmp_path / "runs").iterdir()
    assert json.loads(next(run.glob("checkpoints/*/config.json")).read_text())["pad_token_id"] == pieces.index("[PAD]")


def test_wrapped_lines_are_said(corpus, cache, tmp_path, pretrain):
    """Each would be a paragraph, and its sentences fragments."""
    (tmp_path / "wrapped").mkdir()
    for path in corpus.iterdir():
        (tmp_path / "wrapped" / path.name).write_text("\n".join(textwrap.wrap(path.read_text(), 72)))
    for text, said in ((corpus, False), (tmp_path / "wrapped", True)):
        result = pretrain(arguments(text, cache, tmp_path, flags=["--dry-run"]))
        assert result.code == 0 and ("where lines are wrapped, join those of one" in result.out) == said


def test_marks_that_are_letters_and_text_that_is_unknown_are_said(corpus, cache, tmp_path, pretrain):
    (tmp_path / "data").mkdir()
    for number in range(12):
        (tmp_path / "data" / f"{number}.txt").write_text(" ".join(random.Random(number).choices(RUSSIAN, k=60)), encoding="utf-8")
    dry = lambda *settings, flags=(): pretrain(arguments(tmp_path / "data", cache, tmp_path, settings,  # noqa: E731
                                                         ["--dry-run", *flags])).out
    for language in ("hi", "ko"):
        assert f"language={language}: without its marks words look alike" in dry(f"language={language}", "vocab_size=100")
    assert "its marks" not in dry("language=hi", "strip_accents=false", "vocab_size=100")
    assert "unknown to" not in dry("language=ru", "vocab_size=100")
    few = dry("language=ru", "vocab_size=100", "eval_sequences=2")
    assert "masked tokens are held out: scores of so few are chance; eval_sequences=2 takes no more" in few
    english = tmp_path / "english"
    save_tokenizer(train_tokenizer((path.read_text() for path in sorted(corpus.iterdir())), "unigram", 300, 0, False), english)
    assert "% of the tokens are unknown to the vocabulary" in dry("language=ru", flags=("--tokenizer", str(english)))
