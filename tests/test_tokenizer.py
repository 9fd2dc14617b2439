"""Tokenizers: against SentencePiece, against Transformers, and trained the same way every time."""
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from data.errors import DataError
from data.native import vocabulary as native_vocabulary
from data.native import word_starts as native_word_starts
from data.native.vocabulary import load_tokenizer as load_native
from data.tokenizer import (ALBERT_SPECIALS, BERT_SPECIALS, for_masks, load_tokenizer, part_digits_from_commas, save_tokenizer,
                            special_ids, word_starts)
from data.tokenizer_training import train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
WORDS = ["market", "marked", "marking", "river", "rivers", "old", "older", "London", "walked", "walking",
         "talk", "talked", "it's", "1990,", "naïve", "“quoted”", "end."]


def paragraphs(count=2000, seed=0):
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=20)) for _ in range(count)]


@pytest.fixture(scope="module", params=["unigram", "wordpiece"])
def trained(request):
    return request.param, train_tokenizer(paragraphs(), request.param, 200, seed=0, progress=False)


def release_normalised(text):
    """`preprocess_text` of ALBERT's tokenization.py, with the quotes of the reference implementations."""
    text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    text = unicodedata.normalize("NFKD", text)
    return "".join(c for c in text if not unicodedata.combining(c)).lower()


def released_pieces(model, text):
    """`encode_pieces` of ALBERT's tokenization.py: a piece that ends in digit and comma is encoded again."""
    pieces = []
    for piece in model.encode(text, out_type=str):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            again = model.encode(piece[:-1].replace("▁", ""), out_type=str)
            if piece[0] != "▁" and again[0][0] == "▁":
                again = again[1:] if len(again[0]) == 1 else [again[0][1:], *again[1:]]
            pieces += [*again, ","]
        else:
            pieces.append(piece)
    return [model.piece_to_id(piece) for piece in pieces]


def real_lines(shared, count):
    files = [*sorted(shared.glob("pretrain/*/*.txt")), *sorted(shared.glob("glue/*/train.tsv")),
             *sorted(shared.glob("squad/*.json")), *sorted(shared.glob("conll2003/*.txt"))]
    chance, lines = random.Random(1), []
    for file in files:
        text = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        lines += chance.sample(text, min(len(text), 2 * count // len(files) + 1))
    return [line[:2000] for line in chance.sample(lines, min(count, len(lines)))]


def compare_with_sentencepiece(shared, count):
    path = shared / "vocab" / "30k-clean.model"
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = load_tokenizer(path)
    parted = part_digits_from_commas(tokenizer)
    assert special_ids(tokenizer) == special_ids(parted)
    assert vars(special_ids(tokenizer)) == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    lines = real_lines(shared, count)
    normalised = [release_normalised(line) for line in lines]
    ours = [e.ids for e in tokenizer.encode_batch(lines, add_special_tokens=False)]
    assert ours == [model.encode(line) for line in normalised]
    ours = [e.ids for e in parted.encode_batch(lines, add_special_tokens=False)]
    assert ours == [released_pieces(model, line) for line in normalised]
    return len(lines)


def test_released_vocabulary_encodes_as_sentencepiece(shared):
    assert compare_with_sentencepiece(shared, 2_000) == 2_000


@pytest.mark.slow
def test_released_vocabulary_encodes_10_000_lines_as_sentencepiece(shared):
    assert compare_with_sentencepiece(shared, 10_000) == 10_000


def test_released_vocabulary_normalises_as_release(shared):
    path = shared / "vocab" / "30k-clean.model"
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = load_tokenizer(path)
    for text in ["``Où est-il?'' she  asked.\t\n", "ﬁnal ½ Å x² … “curly” – £5, €6", "한국어 日本 ｆｕｌｌ",
                 "", "  ", "a\u00a0b\u200bc", "1,000, 2,500,", "e\u0301\u0323 ĳ ß Ⅷ ™"]:
        assert tokenizer.encode(text, add_special_tokens=False).ids == model.encode(release_normalised(text))


def test_word_starts_follow_release(shared):
    model = sentencepiece.SentencePieceProcessor(model_file=str(shared / "vocab" / "30k-clean.model"))
    marks = set('!"#$%&"()*+,-./:;?@[\\]^_`{|}~') | {"€", "£"}
    letters = set("abcdefghijklmnopqrstuvwxyz")

    def is_start(piece):  # `_is_start_piece_sp` of ALBERT's create_pretraining_data.py
        return piece.startswith(("▁", "<")) or piece in marks or not all(
            c.lower() in letters | marks for c in piece)

    pieces = [model.id_to_piece(index) for index in range(model.get_piece_size())]
    starts = word_starts(load_tokenizer(shared / "vocab" / "30k-clean.model"))
    other = [piece for piece, start in zip(pieces, starts) if start != is_start(piece)]
    assert all(piece in ALBERT_SPECIALS or not set(piece) & letters for piece in other)
    assert starts.dtype == bool and starts.shape == (30_000,)


@pytest.mark.parametrize("model, split, continuing, marked", [
    ("BPE", pre_tokenizers.ByteLevel(add_prefix_space=True), None, True), ("BPE", pre_tokenizers.Metaspace(), None, True),
    ("BPE", pre_tokenizers.Whitespace(), "@@", True), ("WordPiece", pre_tokenizers.Whitespace(), "@@", True),
    ("BPE", pre_tokenizers.Whitespace(), None, False), ("WordLevel", pre_tokenizers.Whitespace(), None, False)])
def test_word_starts_of_other_models(model, split, continuing, marked):
    prefix = {"continuing_subword_prefix": continuing} if continuing else {}
    tokenizer = Tokenizer(getattr(models, model)(unk_token="[UNK]", **prefix))
    tokenizer.pre_tokenizer = split
    tokenizer.train_from_iterator(paragraphs(), getattr(trainers, f"{model.replace('BPE', 'Bpe')}Trainer")(
        vocab_size=60 if marked else 200, special_tokens=list(BERT_SPECIALS), show_progress=False, **prefix))
    starts, encoding = word_starts(tokenizer), tokenizer.encode("old rivers marked talking older", add_special_tokens=False)
    if marked:
        assert len(encoding.ids) > 6 and starts[encoding.ids].sum() == 5, encoding.tokens
    else:
        assert starts.all()
    assert starts[[tokenizer.token_to_id(token) for token in BERT_SPECIALS]].all()


def test_word_starts_of_trained(trained):
    kind, tokenizer = trained
    encoding = tokenizer.encode("old rivers, it's marked.", add_special_tokens=False)
    first = np.flatnonzero(word_starts(tokenizer)[encoding.ids])
    text = tokenizer.decode(encoding.ids)
    words = [part for part in text.replace(",", " ,").replace(".", " .").replace("'", " ' ").split()]
    # "t" and "s" after an apostrophe go on with its word in Unigram, are words of their own in WordPiece.
    assert len(first) == len(words) - (kind == "unigram")


def test_special_ids_are_the_first_five(trained):
    _, tokenizer = trained
    assert list(vars(special_ids(tokenizer)).values()) == [0, 1, 2, 3, 4]


def test_missing_special_is_named():
    from tokenizers import Tokenizer, models
    with pytest.raises(DataError, match=r"no token <pad> or \[PAD\], \[MASK\]"):
        special_ids(Tokenizer(models.WordLevel({"<unk>": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="<unk>")))


def test_pairs_carry_segment_ids(trained):
    encoding = trained[1].encode("old market", "river")
    a, b = (len(trained[1].encode(text, add_special_tokens=False)) for text in ("old market", "river"))
    assert encoding.type_ids == [0] * (a + 2) + [1] * (b + 1)
    assert encoding.tokens[0] == "[CLS]" and encoding.tokens[a + 1] == encoding.tokens[-1] == "[SEP]"


TRAIN = """
import hashlib, sys
sys.path[:0] = [{root!r}, {tests!r}]
from data.tokenizer_training import train_tokenizer
from test_tokenizer import paragraphs
for kind in ("unigram", "wordpiece"):
    text = train_tokenizer(paragraphs(), kind, 200, seed=3, progress=False).to_str()
    print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_training_is_the_same_in_five_processes():
    code = TRAIN.format(root=str(ROOT), tests=str(ROOT / "tests"))
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE,
                             env=os.environ | {"PYTHONHASHSEED": str(seed)}) for seed in range(5)]
    assert len({run.communicate()[0] for run in runs}) == 1
    assert all(run.returncode == 0 for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_training_on_real_text_is_the_same_in_five_processes(shared, kind):
    code = ("import hashlib, sys; from pathlib import Path; from data.tokenizer_training import train_tokenizer\n"
            "lines = [l for f in sys.argv[2:] for l in Path(f).read_text(encoding='utf-8').splitlines()]\n"
            "t = train_tokenizer(lines, sys.argv[1], 8000, 0, progress=False)\n"
            "print(hashlib.sha256(t.to_str().encode()).hexdigest())")
    files = sorted(map(str, shared.glob("pretrain/*/*.txt")))[::20]
    hashes = {subprocess.run([sys.executable, "-c", code, kind, *files], cwd=ROOT, check=True,
                             stdout=subprocess.PIPE, env=os.environ | {"PYTHONHASHSEED": str(seed)}).stdout
              for seed in range(5)}
    assert len(hashes) == 1


def test_pieces_go_by_falling_score_then_by_name(trained):
    kind, tokenizer = trained
    if kind == "wordpiece":
        pytest.skip("WordPiece has no scores")
    pieces = json.loads(tokenizer.to_str())["model"]["vocab"][5:]
    assert pieces == sorted(pieces, key=lambda piece: (-piece[1], piece[0]))


def test_training_takes_a_seeded_sample(monkeypatch):
    monkeypatch.setattr("data.tokenizer_training.SAMPLE_BYTES", 20_000)
    seen = []
    monkeypatch.setattr("data.tokenizer_training._count_words",
                        lambda texts, _: seen.append(sorted(texts)) or {"word": 3})
    for seed in (0, 0, 1):
        train_tokenizer(iter(paragraphs()), "unigram", 100, seed, progress=False)
    assert seen[0] == seen[1] != seen[2]
    assert 19_000 < sum(len(text.encode()) for text in seen[0]) <= 20_000
    assert set(seen[0]) <= set(paragraphs())


def test_small_text_gives_fewer_pieces():
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 3, "unigram", 8000, 0, progress=False)
    assert tokenizer.get_vocab_size() < 100
    assert 1 not in tokenizer.encode("the cat, 1999!").ids


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_too_small_vocabulary_says_what_works(kind):
    with pytest.raises(DataError, match="vocab_size=50 is too small .* --set vocab_size=") as error:
        train_tokenizer(paragraphs(50), kind, 50, 0, progress=False)
    enough = int(str(error.value).split("--set vocab_size=")[1].split()[0])
    assert train_tokenizer(paragraphs(50), kind, enough, 0, progress=False).get_vocab_size() <= enough


def test_no_text_and_unknown_kind():
    with pytest.raises(DataError, match="no text"):
        train_tokenizer([], "unigram", 100, 0, progress=False)
    with pytest.raises(DataError, match="'unigram' or 'wordpiece'"):
        train_tokenizer(["a"], "bpe", 100, 0, progress=False)


def test_every_way_to_load(trained, tmp_path):
    kind, tokenizer = trained
    save_tokenizer(tokenizer, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    for path in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        assert load_tokenizer(path).to_str() == tokenizer.to_str()
    padded = load_tokenizer(tmp_path)
    padded.enable_padding()
    padded.enable_truncation(4)
    padded.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).to_str() == tokenizer.to_str()


def test_a_tokenizer_without_post_processor_frames_texts(trained, tmp_path):
    tokenizer = trained[1]
    parts = json.loads(tokenizer.to_str()) | {"post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(parts))
    loaded = load_tokenizer(tmp_path)
    for texts in (("a river",), ("a river", "the town")):
        ours, given = loaded.encode(*texts), tokenizer.encode(*texts)
        assert (ours.ids, ours.type_ids) == (given.ids, given.type_ids)


def test_vocab_txt_as_transformers(tmp_path):
    from transformers import BertTokenizer
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "The", "cafe", "Café", "##s", "!", "\u2028", "東"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    for lower in (True, False):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
        theirs = BertTokenizer(vocab=str(tmp_path / "vocab.txt"), do_lower_case=lower)
        ours = load_tokenizer(tmp_path)
        for text in ["The Cafés!", "the  Café東東 xyz"]:
            assert ours.encode(text).ids == theirs(text)["input_ids"]


@pytest.mark.parametrize("token, name", [("[UNK]", "<unk>"), ("[PAD]", "<pad>"), ("[CLS]", "<s>")])
def test_a_vocabulary_with_other_special_tokens_is_refused(tmp_path, token, name):
    """Not given a token that no embedding is of, nor left without one for unknown words."""
    pieces = [name if piece == token else piece for piece in BERT_SPECIALS]
    (tmp_path / "vocab.txt").write_text("\n".join([*pieces, "sun"]) + "\n")
    for load in (load_tokenizer, load_native):
        with pytest.raises(DataError, match=f"no token {re.escape(token)}"):
            load(tmp_path / "vocab.txt")


TEXTS = ["Hello [E1] newword World", "Ä b", "hello world"]
PIECES = [*BERT_SPECIALS, "hello", "world", "new", "##word", "a", "b", "[", "]", "e", "##1"]


@pytest.fixture
def bert_folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')

    def configured(**settings):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"} | settings))
        return tmp_path
    return configured


def test_a_vocabulary_of_another_class_is_refused(bert_folder):
    with pytest.raises(DataError, match="tokenizer_class=BertJapaneseTokenizer.*tokenizer.json beside it works"):
        load_tokenizer(bert_folder(tokenizer_class="BertJapaneseTokenizer"))


@pytest.mark.parametrize("token", ["<s>", {"content": "<s>", "lstrip": False}])
def test_a_model_whose_texts_begin_with_another_token_is_refused(bert_folder, token):
    """And not read with the [CLS] that its vocabulary has too."""
    save_tokenizer(load_tokenizer(bert_folder(cls_token={"content": "[CLS]"})), bert_folder())
    with pytest.raises(DataError, match="tokenizer_config.json: cls_token='<s>': only '.CLS.' is supported"):
        load_tokenizer(bert_folder(cls_token=token))


def test_tokens_added_beside_a_vocabulary(bert_folder):
    from transformers import AutoTokenizer
    folder = bert_folder()
    (folder / "added_tokens.json").write_text(json.dumps({"newword": len(PIECES) + 1, "[E1]": len(PIECES)}))
    theirs = AutoTokenizer.from_pretrained(folder)
    theirs.add_tokens(["[E1]", "newword"])
    assert [load_tokenizer(folder).encode(text).ids for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
    for content, words in (({"[E1]": 99}, r"\[E1\] is to be 99, but after vocab.txt it is 15"), ({"x": "1"}, "an id for each")):
        (folder / "added_tokens.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=words):
            load_tokenizer(folder)


def test_the_configuration_of_a_bert_tokenizer_counts(bert_folder):
    from transformers import AutoTokenizer
    save_tokenizer(load_tokenizer(bert_folder()), bert_folder())
    for settings in ({"do_lower_case": False}, {"strip_accents": False}, {}):
        folder = bert_folder(**settings, pad_token="[PAD]")
        theirs = AutoTokenizer.from_pretrained(folder)
        assert [load_tokenizer(folder).encode(text).ids for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
    with pytest.raises(DataError, match="tokenizer_config.json"):
        load_tokenizer(bert_folder(do_lower_case="yes"))


def test_a_model_that_takes_no_segments_gets_none(bert_folder):
    for names, segments in ((["input_ids", "attention_mask"], {0}), (["input_ids", "token_type_ids"], {0, 1})):
        encoded = load_tokenizer(bert_folder(model_input_names=names)).encode("hello", "world")
        assert set(encoded.type_ids) == segments and len(encoded.ids) == 5


def test_a_cased_sentencepiece_folder_as_transformers(tmp_path):
    from transformers import AlbertTokenizer
    text = ["Anna lives in the Café then", "Élan of Bob in Paris, naïve", "Rome is not Paris"] * 40
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_prefix=str(tmp_path / "spiece"), vocab_size=70, hard_vocab_limit=False,
        pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=["[CLS]", "[SEP]", "[MASK]"], minloglevel=2)
    for settings in ({}, {"do_lower_case": False}, {"do_lower_case": False, "keep_accents": True}, {"keep_accents": True}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "AlbertTokenizer"}))
        ours, native, theirs = load_tokenizer(tmp_path), load_native(tmp_path), AlbertTokenizer.from_pretrained(tmp_path)
        for line in text[:3]:
            assert ours.encode(line).ids == theirs(line)["input_ids"]
            assert ours.encode(line, add_special_tokens=False).ids == native.encode(line)


@pytest.mark.parametrize("option", [dict(treat_whitespace_as_suffix=True), dict(split_by_whitespace=False),
                                    dict(add_dummy_prefix=False), dict(byte_fallback=True)])
def test_a_sentencepiece_model_that_would_be_read_otherwise_is_refused(tmp_path, option):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the old river", "a new town by it"] * 40), model_prefix=str(tmp_path / "spiece"),
        vocab_size=330 if "byte_fallback" in option else 60, hard_vocab_limit=False, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"], minloglevel=2, **option)
    for load in (load_tokenizer, load_native):
        with pytest.raises(DataError, match=f"spiece.model: trained with --{next(iter(option))}"):
            load(tmp_path)


def test_a_vocab_txt_alone_is_read_in_the_case_of_its_pieces(tmp_path):
    for word, text in (("Cafés", "Cafés"), ("cafes", "Cafés")):
        (tmp_path / "vocab.txt").write_text("\n".join([*BERT_SPECIALS, word]) + "\n", encoding="utf-8")
        assert load_tokenizer(tmp_path).encode(text).ids == [2, 5, 3] and load_native(tmp_path).encode(text) == [5]


def test_a_mask_takes_the_place_of_a_piece():
    """Of a text without special tokens nothing changes, whatever it begins with."""
    tokenizer = train_tokenizer(paragraphs(), "unigram", 200, seed=0, progress=False)
    reader, lead = for_masks(tokenizer)
    for text in (*paragraphs(20), "", "  two  blanks\t", "old river ", "中文 river", "``old'' river", "\u0301old", "\ufb01old"):
        assert reader.encode(lead + text).ids == tokenizer.encode(text).ids
    for text, pieces in (("old [MASK].", "▁old [MASK] ."), ("[MASK] old  [MASK]\t river", "[MASK] ▁old [MASK] ▁river"),
                         ("old [MASK]s", "▁old [MASK] s"), ("old [MASK] [MASK]", "▁old [MASK] [MASK]")):
        encoding = reader.encode(lead + text, add_special_tokens=False)
        assert encoding.tokens == pieces.split()
        masks = [(lead + text)[start:end].strip() for token, (start, end) in zip(encoding.tokens, encoding.offsets) if token == "[MASK]"]
        assert masks == ["[MASK]"] * text.count("[MASK]")
    on_the_hub = json.loads(tokenizer.to_str())
    on_the_hub["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, on_the_hub["pre_tokenizer"]]}
    assert for_masks(Tokenizer.from_str(json.dumps(on_the_hub)))[0].to_str() == reader.to_str()


def test_a_blank_before_a_mask_is_no_piece_of_bytes():
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate([*ALBERT_SPECIALS, "a", "Ġ", "Ġa"])},
                                     [("Ġ", "a")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(list(ALBERT_SPECIALS))
    reader, lead = for_masks(tokenizer)
    assert tokenizer.encode("a [MASK] a").ids == [5, 6, 4, 7] and reader.encode(lead + "a [MASK] a").ids == [5, 4, 7]


def test_accents_that_are_kept_are_composed_and_joiners_stay():
    """Zero width joiners are part of words of Sinhala, Persian and Hindi, and so no word begins with a piece that has one."""
    words = ["ශ්\u200dරී", "می\u200cخواهم", "Mu\u0308ller"]
    kept, plain = (train_tokenizer(words * 50, "unigram", 300, 0, False, strip_accents=strip) for strip in (False, True))
    assert kept.normalizer.normalize_str(" ".join(words)) == "ශ්\u200dරී می\u200cخواهم müller"
    assert len(plain.pre_tokenizer.pre_tokenize_str(plain.normalizer.normalize_str(words[1]))) == 2
    native = native_vocabulary.albert_tokenizer(json.loads(kept.to_str())["model"]["vocab"], 1, keep_accents=True)
    pieces = kept.get_vocab()
    for word in words:
        assert native.encode(word) == kept.encode(word, add_special_tokens=False).ids
    starts = word_starts(kept)
    assert list(starts) == native_word_starts(native)
    assert not any(starts[index] for piece, index in pieces.items() if "\u200c" in piece and not piece.startswith("▁"))
    assert sum(starts[index] for index in kept.encode(" ".join(words), add_special_tokens=False).ids) == 3


def test_sentencepiece_folder(shared, tmp_path):
    (tmp_path / "spiece.model").write_bytes((shared / "vocab" / "30k-clean.model").read_bytes())
    assert load_tokenizer(tmp_path).get_vocab_size() == 30_000


def test_bad_paths_and_files(tmp_path):
    with pytest.raises(DataError, match="no tokenizer in this folder"):
        load_tokenizer(tmp_path)
    with pytest.raises(DataError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "none.json")
    for name, message in [("tokenizer.json", "not a tokenizer.json"), ("x.model", "SentencePiece model")]:
        (tmp_path / name).write_text('{"version": ')
        with pytest.raises(DataError, match=message):
            load_tokenizer(tmp_path / name)
    (tmp_path / "vocab.txt").write_text("the\n")
    with pytest.raises(DataError, match="vocab.txt.*no token"):
        load_tokenizer(tmp_path / "vocab.txt")


def auto_tokenizer_agrees(tokenizer, folder, model_type, lines):
    from transformers import AutoTokenizer
    save_tokenizer(tokenizer, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = AutoTokenizer.from_pretrained(folder)
    special = special_ids(tokenizer)
    assert (theirs.pad_token_id, theirs.unk_token_id, theirs.cls_token_id, theirs.sep_token_id,
            theirs.mask_token_id) == (special.pad, special.unk, special.cls, special.sep, special.mask)
    assert theirs.padding_side == "right"
    single = theirs(lines)
    ours = tokenizer.encode_batch(lines)
    assert single["input_ids"] == [encoding.ids for encoding in ours]
    pairs = theirs(lines[1:], lines[:-1])
    ours = tokenizer.encode_batch(list(zip(lines[1:], lines[:-1])))
    assert pairs["input_ids"] == [encoding.ids for encoding in ours]
    assert pairs["token_type_ids"] == [encoding.type_ids for encoding in ours]
    padded = theirs([lines[0], lines[0] * 2], padding=True)
    assert padded["attention_mask"][0][-1] == 0 and padded["input_ids"][0][-1] == special.pad


def test_transformers_opens_saved(trained, tmp_path):
    kind, tokenizer = trained
    lines = ["Old MARKET  [MASK] walked.", "naïve “rivers”, it''s 1990", *paragraphs(50, seed=5)]
    auto_tokenizer_agrees(tokenizer, tmp_path, {"unigram": "albert", "wordpiece": "bert"}[kind], lines)


def test_transformers_opens_released_vocabulary(shared, tmp_path):
    auto_tokenizer_agrees(load_tokenizer(shared / "vocab" / "30k-clean.model"), tmp_path, "albert",
                          real_lines(shared, 500))


@pytest.mark.slow
def test_transformers_opens_released_vocabulary_10_000_lines(shared, tmp_path):
    auto_tokenizer_agrees(load_tokenizer(shared / "vocab" / "30k-clean.model"), tmp_path, "albert",
                          real_lines(shared, 10_000))


def test_interrupted_save_leaves_the_old(trained, tmp_path, monkeypatch):
    save_tokenizer(trained[1], tmp_path)
    before = hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).digest()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.building.os.fsync", full)
    with pytest.raises(OSError):
        save_tokenizer(trained[1], tmp_path)
    assert hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).digest() == before
    assert len(list(tmp_path.iterdir())) == 2
