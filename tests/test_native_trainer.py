"""The native Unigram trainer: against 🤗 Tokenizers' on the same text, against SciPy, step by step."""
import json
import math
import random

import pytest
from scipy.special import psi
from tokenizers import trainers

from data.errors import DataError
from data.native import trainer
from data.native.trainer import (REQUIRED_CHARACTERS, allowed_spans, count_words, covered_characters, digamma, expectation,
                                 maximization, prune, seed_pieces, train_tokenizer, train_unigram)
from data.native.unigram import forward, lattice
from data.native.vocabulary import ALBERT_SPECIALS, albert_tokenizer
from data.tokenizer import albert_tokenizer as fast_albert_tokenizer

EMPTY = [(token, 0.0) for token in ALBERT_SPECIALS]


def made_up(count, seed):
    """Lines of stems and endings with Zipf's frequencies, all letters: 🤗 alone makes pieces of letters and marks."""
    chance = random.Random(0)
    stems = ["".join(chance.choices("aeioubcdfglmnprst", k=chance.randint(2, 7))) for _ in range(500)]
    chance = random.Random(seed)
    weights = [1 / rank for rank in range(1, 501)]
    return [" ".join(stem + chance.choice(["", "", "s", "ed", "ing", "ly", "er", "ment", "est"])
                     for stem in chance.choices(stems, weights, k=20)) for _ in range(count)]


def nats_a_character(tokenizer, counts):
    """Log P(text) over all segmentations, the pieces' probabilities summing to 1."""
    scores = dict(entry for entry in json.loads(tokenizer.to_str())["model"]["vocab"] if entry[0] not in ALBERT_SPECIALS)
    total = math.log(sum(map(math.exp, scores.values())))
    scores = {piece: score - total for piece, score in scores.items()}
    logs = sum(count * forward(lattice(word, scores, 16), len(word))[-1] for word, count in counts.items())
    return logs / sum(len(word) * count for word, count in counts.items())


def test_heldout_likelihood_beside_huggingface():
    text, counts = made_up(2000, 1), count_words(made_up(400, 2), albert_tokenizer(EMPTY, 1))
    native = train_tokenizer(text, 500, 0, progress=False)
    theirs = fast_albert_tokenizer(EMPTY, 1)
    theirs.train_from_iterator(text, trainers.UnigramTrainer(
        vocab_size=500, special_tokens=list(ALBERT_SPECIALS), unk_token="<unk>", show_progress=False,
        initial_alphabet=list(REQUIRED_CHARACTERS)))
    assert native.get_vocab_size() == theirs.get_vocab_size() == 500
    ours, wanted = nats_a_character(native, counts), nats_a_character(theirs, counts)
    assert ours > 1.01 * wanted            # both are negative


def test_pieces_go_by_falling_score_and_are_the_same_again():
    tokenizer = train_tokenizer(made_up(200, 3), 200, 0, progress=False)
    vocabulary = tokenizer.config["model"]["vocab"]
    assert [piece for piece, _ in vocabulary[:5]] == list(ALBERT_SPECIALS)
    assert vocabulary[5:] == sorted(vocabulary[5:], key=lambda entry: (-entry[1], entry[0]))
    assert train_tokenizer(made_up(200, 3), 200, 0, progress=False).to_str() == tokenizer.to_str()
    assert set(REQUIRED_CHARACTERS) <= tokenizer.ids.keys()
    assert all(len(piece) <= 16 and "▁" not in piece[1:] for piece, _ in vocabulary)


def test_sample_is_seeded(monkeypatch):
    monkeypatch.setattr(trainer, "SAMPLE_BYTES", 20_000)
    text = made_up(500, 4)
    samples = [trainer.sample(iter(text), seed) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2] and set(samples[0]) <= set(text)
    assert 19_000 < sum(len(paragraph.encode()) for paragraph in samples[0]) <= 20_000


def test_faults():
    with pytest.raises(DataError, match="no text"):
        train_tokenizer(["", " "], 100, 0, progress=False)
    with pytest.raises(DataError, match="vocab_size=50 is too small.*--set vocab_size=") as error:
        train_tokenizer(made_up(50, 0), 50, 0, progress=False)
    enough = int(str(error.value).split("--set vocab_size=")[1].split()[0])
    assert train_tokenizer(made_up(50, 0), enough, 0, progress=False).get_vocab_size() <= enough


def test_small_text_gives_fewer_pieces_and_no_unknown():
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 3, 8000, 0, progress=False)
    assert tokenizer.get_vocab_size() < 120 and 1 not in tokenizer.encode("the cat, 1999!")


def test_rare_characters_are_unknown():
    counts = {"▁" + "a" * 100: 1000, "▁東": 1}
    assert covered_characters(counts) == set(REQUIRED_CHARACTERS)
    assert "東" not in train_unigram(counts, 200)
    assert "東" in train_unigram(counts | {"▁東": 1000}, 200)


def test_em_raises_the_likelihood_and_counts_all_characters():
    words = dict(count_words(made_up(300, 5), albert_tokenizer(EMPTY, 1)))
    characters = set("".join(words))
    scores, likelihoods = seed_pieces(words, characters, 1000), []
    for _ in range(5):
        expected, likelihood = expectation(words, scores)
        assert sum(count * len(piece) for piece, count in expected.items()) == pytest.approx(
            sum(count * len(word) for word, count in words.items()))
        total = math.log(sum(expected.values()))
        scores = {piece: math.log(count) - total for piece, count in expected.items() if count > 0}
        likelihoods.append(likelihood)
    assert likelihoods == sorted(likelihoods) and likelihoods[-1] > likelihoods[0]
    assert characters <= maximization(expected, characters).keys()


def test_pruning_keeps_what_matters_most():
    """Of two pieces as frequent, the one whose own pieces are rarer is kept."""
    words = {"abab": 50, "cd": 50, "a": 200, "b": 200, "c": 1, "d": 1, "ab": 1}
    scores = {"a": 0.2, "b": 0.2, "c": 0.01, "d": 0.01, "ab": 0.1, "cd": 0.1, "ba": 0.01}
    scores = {piece: math.log(probability) for piece, probability in scores.items()}
    assert prune(words, scores, 5, set("abcd")).keys() == set("abcd") | {"cd"}
    assert prune(words, scores, 6, set("abcd")).keys() == set("abcd") | {"cd", "ab"}


def test_pieces_are_of_one_script():
    spans = {"▁don't1½漢a"[start:end] for start, end in allowed_spans("▁don't1½漢a")}
    assert {"▁don", "▁d", "don", "'", "t", "1½", "漢"} <= spans
    assert not {"n't", "t1", "½漢", "漢a", "▁don'"} & spans


def test_digamma():
    for x in (1e-3, 0.5, 1, 2.5, 9.99, 10, 1e3, 1e9):
        assert digamma(x) == pytest.approx(psi(x), rel=1e-12)
