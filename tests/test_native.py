"""The native pipeline against the fast one: normalisation, pieces, files read; against enumeration and SentencePiece."""
import base64
import itertools
import json
import math
import random
import unicodedata

import pytest
import sentencepiece
import unicode_differences
from test_store import assert_words_are_independent, corpus, nasty_texts
from tokenizers import Tokenizer, normalizers

from data.errors import DataError
from data.native import special_ids, word_starts
from data.native.charsmap import find_prefix, graphemes, read_charsmap
from data.native.normalization import make_normalizer
from data.native.unigram import backward, forward, lattice, posteriors, viterbi
from data.native.vocabulary import bert_tokenizer, load_tokenizer, read_sentencepiece_model
from data.native.wordpiece import longest_first
from data.tokenizer import load_tokenizer as load_fast
from data.tokenizer import save_tokenizer
from data.tokenizer import special_ids as fast_special_ids
from data.tokenizer import word_starts as fast_word_starts
from data.tokenizer_training import train_tokenizer

LISTED = unicode_differences.listed()
if LISTED is None:
    pytest.skip(f"no table for Unicode {unicodedata.unidata_version}: tests/unicode_differences.py makes one",
                allow_module_level=True)
DIFFERENT = set().union(*LISTED.values())
CHARACTERS = [chr(point) for point in unicode_differences.POINTS if point not in DIFFERENT]
EMBEDDED = [
    "", " ", "\n", "The cat sat.", "``Où est-il?'' she  asked.\t\n", "ﬁnal ½ Å x² … “curly” – £5, €6",
    "don't; 1,000, 2,500,",
    "한국어 日本 ｆｕｌｌ カ゛ ｶﾞ", "a\u00a0b\u200bc\u200dd", "e\u0301\u0323 ĳ ß Ⅷ ™ Ǆ",
    "ΟΔΟΣ ΑΣ. İstanbul ıI", "\ufeffa mark of bytes",
    "שָׁלוֹם עולם \u202eabc\u202c",
    "مرحبا بالعالم ١٢٣ \u0600\u0661",
    "👩‍👩‍👧 👍🏽 🇩🇪🇫🇷 ❤️",
    "one\r\ntwo\rthree\x85four\u2028five", "▁ ▁▁a b▁c",
    "x" * 3000, "é" * 1000 + "東" * 1000, "a\u0301" + "\u0323\u0301" * 500, "\x00\x01\x1f\x7f\x9f\ufffd",
    "[CLS] a [SEP]b[MASK] <pad><unk> [PAD]",
    "[cls] ＜unk＞ ［MASK］ <unk", "##s # #a", "\U00010400\U0001d400 \U000e0041\U000f0000\U0010ffff",
    "\u1100\u1161\u11a8각 क्षि ",
]


def fuzzed(count, seed):
    """Texts of all planes and the troublesome atoms of `nasty_texts`, without what the table lists."""
    chance = random.Random(seed)
    scattered = ["".join(chance.choices(CHARACTERS, k=chance.randint(1, 40))) for _ in range(count)]
    low = [character for character in CHARACTERS if character < "\u3000"]
    scattered += ["".join(chance.choice(low if chance.random() < 0.7 else " aé") for _ in range(chance.randint(1, 60)))
                  for _ in range(count)]
    nasty = ["".join(c for c in text if ord(c) not in DIFFERENT) for text in nasty_texts(count, seed)]
    return nasty + scattered


@pytest.fixture(scope="module", params=["unigram", "wordpiece", "cased wordpiece"])
def folder(request, tmp_path_factory):
    """A trained tokenizer's folder."""
    path, kind = tmp_path_factory.mktemp("tokenizer"), request.param.split()[-1]
    tokenizer = train_tokenizer((text for _, text in corpus().paragraphs()), kind, 200, 0, progress=False)
    if "cased" in request.param:
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    save_tokenizer(tokenizer, path)
    return path


def assert_equal(path, texts):
    """Both read the same file and give every text the same ids."""
    fast, native = load_fast(path), load_tokenizer(path)
    assert native.to_str() == fast.to_str() and native.to_str(pretty=True) == fast.to_str(pretty=True)
    assert native.get_vocab_size() == fast.get_vocab_size() and native.get_vocab() == fast.get_vocab()
    assert special_ids(native) == fast_special_ids(fast)
    assert word_starts(native) == fast_word_starts(fast).tolist()
    encodings = fast.encode_batch(texts, add_special_tokens=False)
    for text, encoding in zip(texts, encodings):
        assert native.encode(text) == encoding.ids, repr(text)


def assert_normalised_as_listed(points):
    theirs = unicode_differences.answers(unicode_differences.library_steps(), points)
    mine = unicode_differences.answers(unicode_differences.native_steps(), points)
    for name, found in unicode_differences.differences(mine, theirs).items():
        assert found == LISTED.get(name, set()) & set(points), name


def test_code_points_are_normalised_as_the_table_says():
    """All of the first two planes but ideographs and syllables, and some of each of the others."""
    points = unicode_differences.POINTS
    assert_normalised_as_listed([point for point in points if point < 0x3500 or 0xa000 <= point < 0xac10
                                 or 0xf900 <= point < 0x17000 or 0x1b000 <= point < 0x20000 or point % 101 == 0])


@pytest.mark.slow
def test_every_code_point_is_normalised_as_the_table_says():
    assert_normalised_as_listed(unicode_differences.POINTS)


def test_trained_tokenizers_give_the_same_ids(folder):
    assert_equal(folder, EMBEDDED + fuzzed(1500, 1))


def test_released_vocabulary_gives_the_same_ids(shared):
    assert_equal(shared / "vocab" / "30k-clean.model", EMBEDDED + fuzzed(1500, 2))


@pytest.mark.slow
def test_fuzzed_at_length(folder, shared):
    for seed in range(3, 13):
        assert_equal(folder, fuzzed(5000, seed))
        assert_equal(shared / "vocab" / "30k-clean.model", fuzzed(5000, seed))


def test_vocab_file_is_read(shared):
    by_vocab, by_model = (load_tokenizer(shared / "vocab" / f"30k-clean.{kind}") for kind in ("vocab", "model"))
    assert by_vocab.get_vocab() == by_model.get_vocab()
    # its scores have six digits, and it carries no character map
    assert list(by_vocab.scores.values()) == pytest.approx(list(by_model.scores.values()), rel=1e-5)
    assert by_vocab.encode("The naïve cat sat, 1990.") == by_model.encode("The naïve cat sat, 1990.")


def test_sentencepiece_gives_the_same_pieces(shared):
    path = shared / "vocab" / "30k-clean.model"
    model, native = sentencepiece.SentencePieceProcessor(model_file=str(path)), load_tokenizer(path)
    for text in EMBEDDED[3:8]:
        assert native.encode(text) == model.encode(native.normalize(text))


def test_vocab_txt_with_its_settings(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "The", "cafe", "Café", "##s", "!", "\u2028", "東"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    for settings in ({}, {"do_lower_case": False}, {"do_lower_case": False, "strip_accents": True},
                     {"tokenize_chinese_chars": False}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        assert_equal(tmp_path, ["The Cafés! the  Café東東 xyz", *EMBEDDED])


def test_added_tokens_that_take_the_blanks_beside_them(folder, tmp_path):
    config = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    config["added_tokens"][4] |= {"lstrip": True, "rstrip": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(config), encoding="utf-8")
    fast, native = load_fast(tmp_path), load_tokenizer(tmp_path)
    for text in ("a [MASK] b", "a \u3000[MASK]\n b[MASK][SEP] c"):
        assert native.encode(text) == fast.encode(text, add_special_tokens=False).ids


def test_the_layout_of_albert_on_the_hub(shared, tmp_path):
    """Split by white space before the Metaspace, runs of blanks made one; words one by one give the same ids too."""
    config = json.loads(load_fast(shared / "vocab" / "30k-clean.model").to_str())
    config["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, config["pre_tokenizer"]]}
    config["normalizer"]["normalizers"].append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    Tokenizer.from_str(json.dumps(config)).save(str(tmp_path / "tokenizer.json"))
    assert_equal(tmp_path, EMBEDDED + fuzzed(500, 4))
    assert_words_are_independent(load_fast(tmp_path), EMBEDDED + nasty_texts(500, 4))


@pytest.mark.parametrize("part, value, words", [
    ("normalizer", {"type": "Prepend", "prepend": "x"}, "normalizer Prepend"),
    ("normalizer", {"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}, "'a\\+'"),
    ("pre_tokenizer", {"type": "ByteLevel"}, "pre_tokenizer ByteLevel"),
    ("model", {"type": "BPE", "vocab": {}, "merges": []}, "type BPE"),
    ("added_tokens", [{"id": 0, "content": "a", "single_word": True, "normalized": False, "special": True,
                       "lstrip": False, "rstrip": False}], "added token"),
])
def test_what_is_not_native_is_named(part, value, words, folder, tmp_path):
    config = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(config | {part: value}))
    with pytest.raises(DataError, match=f"{tmp_path}.*{words}.*--preprocess fast"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name, content, words", [
    ("tokenizer.json", b'{"version": ', "no tokenizer that can be read"), ("tokenizer.json", b"[1]", "no tokenizer"),
    ("x.model", b"\x0a\xff", "x.model"), ("x.model", b"", "Unigram"), ("x.vocab", b"a b\n", "x.vocab"),
    ("vocab.txt", b"the\n", r"no token \[PAD\]"), ("tokenizer.json", b"\xff", "no tokenizer"),
    ("x.model", b"\x0a\x02\x08\x01", "x.model"), ("tokenizer.json", b"[" * 100_000, "no tokenizer"),
])
def test_damaged_files(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        load_tokenizer(tmp_path / name)


def test_no_file_and_no_special_token(tmp_path):
    with pytest.raises(DataError, match="no tokenizer in this folder"):
        load_tokenizer(tmp_path)
    with pytest.raises(DataError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "none.json")
    tokenizer = bert_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    del tokenizer.ids["[PAD]"], tokenizer.added["[PAD]"]
    with pytest.raises(DataError, match=r"no token <pad> or \[PAD\]"):
        special_ids(tokenizer)


def charsmap_of(shared):
    return read_sentencepiece_model((shared / "vocab" / "30k-clean.model").read_bytes())[2]


def test_charsmap_alone_as_the_library(shared):
    """Without a step before it, marks and joiners are there: clusters matter."""
    blob = charsmap_of(shared)
    native = make_normalizer({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(blob).decode()})
    fast = normalizers.Precompiled(blob)
    chance = random.Random(0)
    marks = [c for c in CHARACTERS if unicodedata.category(c)[0] == "M" and c < "\u3100"] + ["\u200d", "\u0600", "\r\n"]
    texts = [f"a{c}b" for c in CHARACTERS[::50]]
    texts += ["".join(chance.choice(marks if chance.random() < 0.4 else CHARACTERS[:8000]) for _ in range(12))
              for _ in range(2000)]
    for text in texts:
        assert native(text) == fast.normalize_str(text), repr(text)
    assert native("ﬁ\u0301x") == "fix"           # SentencePiece keeps the accent


def test_graphemes_and_trie(shared):
    assert graphemes("e\u0301a\r\n👍🏽\n\u0301") == ["e\u0301", "a", "\r\n", "👍🏽", "\n", "\u0301"]
    trie, table = read_charsmap(charsmap_of(shared))
    place = find_prefix(trie, "ﬁx".encode())
    assert table[place:place + 3] == b"fi\0" and find_prefix(trie, b"x") is None


SCORES = {piece: math.log(probability) for piece, probability in
          {"a": 0.1, "b": 0.2, "c": 0.05, "ab": 0.25, "bc": 0.1, "abc": 0.02, "ca": 0.28}.items()}


def segmentations(word):
    """All, by enumeration of the cuts."""
    for cuts in itertools.product((0, 1), repeat=len(word) - 1):
        bounds = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(word)]
        pieces = [word[a:b] for a, b in zip(bounds, bounds[1:])]
        if all(piece in SCORES for piece in pieces):
            yield pieces, sum(SCORES[piece] for piece in pieces)


@pytest.mark.parametrize("word", ["a", "abc", "abcabca", "bbcaabcab"])
def test_lattice_against_enumeration(word):
    edges, paths = lattice(word, SCORES, 3), list(segmentations(word))
    best, log_probability = viterbi(edges, len(word))
    assert log_probability == pytest.approx(max(score for _, score in paths))
    assert ([piece for _, _, piece, _ in best], pytest.approx(log_probability)) in paths
    total = sum(math.exp(score) for _, score in paths)
    assert forward(edges, len(word))[-1] == pytest.approx(math.log(total)) == backward(edges, len(word))[0]
    shares, log_total = posteriors(edges, len(word))
    for (start, end, piece, _), share in zip(edges, shares):
        through = sum(math.exp(score) for pieces, score in paths
                      if (start, piece) in zip(itertools.accumulate(map(len, pieces), initial=0), pieces))
        assert share == pytest.approx(through / total)


def test_word_without_a_path():
    edges = lattice("axb", SCORES, 3)
    assert viterbi(edges, 3) == ([], -math.inf) and forward(edges, 3)[-1] == -math.inf
    path, _ = viterbi(lattice("axb", SCORES, 3, unknown=-20.0), 3)
    assert [piece for _, _, piece, _ in path] == ["a", "x", "b"]


def test_longest_first():
    vocabulary = dict.fromkeys(["un", "##aff", "##able", "##a"], 0)
    assert longest_first("unaffable", vocabulary) == ["un", "##aff", "##able"]      # the example of BERT's release
    assert longest_first("unaffablex", vocabulary) is None and longest_first("un" * 51, vocabulary) is None
