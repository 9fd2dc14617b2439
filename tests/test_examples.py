"""Segment pairs, masks and batches, on a small store made in memory."""
from types import SimpleNamespace

import numpy as np
import pytest

from data import draws
from data.errors import DataError
from data.examples import NO_LABEL, PretrainingExamples

SPECIALS = SimpleNamespace(pad=0, unk=1, cls=2, sep=3, mask=4)
VOCAB = 4000
WORD_STARTS = np.arange(VOCAB) % 3 != 0        # a third of the pieces continue a word


def make_store(documents=60, seed=0):
    """Documents of 1 to 60 sentences of 1 to 40 tokens; token i of the store is told from its neighbours."""
    rng = np.random.default_rng(seed)
    per_document = rng.integers(1, 60, documents)
    per_document[0] = 1
    lengths = rng.integers(1, 40, per_document.sum())
    lengths[5] = 300                                            # longer than any sequence
    return SimpleNamespace(
        tokens=rng.integers(5, VOCAB, lengths.sum()).astype(np.uint16),
        sentence_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        document_offsets=np.concatenate([[0], np.cumsum(per_document)]),
        num_documents=documents, num_sentences=len(lengths), num_tokens=int(lengths.sum()))


STORE = make_store()


def make(store=STORE, documents=None, **changes):
    settings = dict(seed=0, seq_len=64, mask_prob=0.15, max_ngram=3, whole_words=True, short_seq_prob=0.1,
                    sentence_objective="sop") | changes
    documents = np.arange(store.num_documents) if documents is None else documents
    return PretrainingExamples(store, documents, SPECIALS, WORD_STARTS, **settings)


def uncorrupted(batch):
    ids = batch["input_ids"].copy()
    ids.reshape(-1)[batch["masked_positions"]] = batch["mlm_labels"]
    return ids


def segments(batch):
    """Each row's segments A and B as arrays of ids."""
    for ids, types, mask in zip(uncorrupted(batch), batch["token_type_ids"], batch["attention_mask"]):
        ids = ids[mask]
        types = types[mask]
        assert ids[0] == SPECIALS.cls and ids[-1] == SPECIALS.sep
        a, b = ids[1:][types[1:] == 0], ids[types == 1]
        assert a[-1] == SPECIALS.sep and (len(b) == 0 or b[-1] == SPECIALS.sep)
        yield a[:-1], b[:-1]


def everything(examples, epoch=0):
    return examples.batch(epoch, np.arange(len(examples.plan(epoch).label)))


def find(segment, text):
    """Where a segment stands in the token stream."""
    windows = np.lib.stride_tricks.sliding_window_view(text, len(segment))
    places = np.flatnonzero((windows == segment).all(axis=1))
    return places


@pytest.mark.parametrize("objective", ["sop", "nsp", "none"])
def test_segments_are_stretches_of_one_document(objective):
    examples = make(sentence_objective=objective)
    batch = everything(examples)
    assert (batch["attention_mask"].sum(1) <= 64).all()
    document_of = np.repeat(np.arange(STORE.num_documents),
                            np.diff(STORE.sentence_offsets[STORE.document_offsets]))
    labels = batch["sentence_labels"]
    for (a, b), label in zip(segments(batch), labels):
        if objective == "none":
            assert len(b) == 0 and label == NO_LABEL
        if len(b) == 0:
            assert label == NO_LABEL
            continue
        pairs = [(i, j) for i in find(a, STORE.tokens) for j in find(b, STORE.tokens)]
        if objective == "sop":
            order = [i < j for i, j in pairs if document_of[i] == document_of[j]]
            assert (label == 0) in order
        elif label == 1 and len(a) > 3 and len(b) > 3:
            assert all(document_of[i] != document_of[j] for i, j in pairs)
    if objective != "none":
        paired = labels[labels != NO_LABEL]
        assert 0.4 < paired.mean() < 0.6


def test_an_epoch_reads_every_sentence_once():
    plan = make(seq_len=10_000, short_seq_prob=0.3).plan(0)     # nothing is truncated
    spans = sorted(zip(np.r_[plan.a_start, plan.b_start], np.r_[plan.a_length, plan.b_length]))
    spans = [(start, length) for start, length in spans if length]
    assert spans[0][0] == 0
    assert all(start + length == following for (start, length), (following, _) in zip(spans, spans[1:]))
    assert sum(spans[-1]) == STORE.num_tokens


def test_sentences_planned_in_several_blocks_are_the_same_epoch(monkeypatch):
    whole = make().plan(0)
    monkeypatch.setattr("data.examples._BLOCK", 64)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(make().plan(0), whole))


def test_short_sequences_are_a_tenth():
    store = make_store(documents=400)
    usual, never, always = (make(store, seq_len=64, short_seq_prob=share).plan(0).length for share in (0.1, 0, 1))
    share = ((usual < 32).mean() - (never < 32).mean()) / ((always < 32).mean() - (never < 32).mean())
    assert share == pytest.approx(0.1, abs=0.05)
    assert np.median(usual) >= 60


def test_heldout_documents_stay_out():
    bounds = STORE.sentence_offsets[STORE.document_offsets]
    chosen = np.array([3, 4, 17])
    plan = make(documents=chosen).plan(0)
    for start in np.r_[plan.a_start, plan.b_start[plan.b_length > 0]]:
        assert np.searchsorted(bounds, start, side="right") - 1 in chosen


def test_masks_take_their_share_in_whole_words():
    examples = make(make_store(documents=300))
    batch = everything(examples)
    ids = uncorrupted(batch)
    masked = np.zeros(ids.size, bool)
    masked[batch["masked_positions"]] = True
    masked = masked.reshape(ids.shape)
    ordinary = ids > 4
    assert not (masked & ~ordinary).any()
    assert masked.sum() / ordinary.sum() == pytest.approx(0.15, abs=0.003)
    # a piece that continues a word shares its word's fate
    continues = ordinary & ~WORD_STARTS[ids]
    continues[:, 1:] &= ordinary[:, :-1]
    assert (masked[:, 1:][continues[:, 1:]] == masked[:, :-1][continues[:, 1:]]).all()


def test_masked_tokens_are_replaced_80_10_10():
    batch = everything(make(make_store(documents=400)))
    shown = batch["input_ids"].reshape(-1)[batch["masked_positions"]]
    labels = batch["mlm_labels"]
    assert (shown == SPECIALS.mask).mean() == pytest.approx(0.8, abs=0.01)
    assert (shown == labels).mean() == pytest.approx(0.1, abs=0.01)
    other = shown[(shown != SPECIALS.mask) & (shown != labels)]
    assert len(other) / len(labels) == pytest.approx(0.1, abs=0.01) and (other > 4).all()


def test_ngram_lengths_follow_one_over_n():
    """Runs of masked words where the rest is so rarely masked that n-grams seldom touch."""
    examples = make(make_store(documents=400), whole_words=False, mask_prob=0.02, seq_len=256)
    batch = everything(examples)
    width = batch["input_ids"].shape[1]
    runs = np.split(batch["masked_positions"], np.flatnonzero(np.diff(batch["masked_positions"]) != 1) + 1)
    assert width >= 256
    sizes = np.bincount([len(run) for run in runs], minlength=5)[1:4]
    np.testing.assert_allclose(sizes / sizes.sum(), np.array([6, 3, 2]) / 11, atol=0.02)


def test_batches_are_pure_functions_of_seed_epoch_and_sample():
    first, again = make(), make()
    samples = np.array([7, 3, 20])
    together = first.batch(1, samples)
    for row, sample in enumerate(samples):
        alone = again.batch(1, np.array([sample]))
        n = int(alone["attention_mask"].sum())
        np.testing.assert_array_equal(together["input_ids"][row, :n], alone["input_ids"][0, :n])
        assert together["sentence_labels"][row] == alone["sentence_labels"][0]


def test_epochs_and_seeds_differ():
    base = make().batch(0, np.arange(8))["input_ids"]
    assert not np.array_equal(base, make().batch(1, np.arange(8))["input_ids"])
    assert not np.array_equal(base, make(seed=1).batch(0, np.arange(8))["input_ids"])


def test_padding_is_marked():
    batch = make().batch(0, np.arange(16))
    assert batch["input_ids"].shape[1] % 8 == 0
    assert (batch["input_ids"][~batch["attention_mask"]] == SPECIALS.pad).all()
    assert (batch["token_type_ids"][~batch["attention_mask"]] == 0).all()


@pytest.mark.parametrize("changes, message", [
    (dict(sentence_objective="order"), "sop, nsp and none"), (dict(seq_len=4), "seq_len=4"),
])
def test_refusals(changes, message):
    with pytest.raises(DataError, match=message):
        make(**changes)


def test_nsp_needs_two_documents():
    with pytest.raises(DataError, match="another document: training and held-out text need two each"):
        make(documents=np.array([1]), sentence_objective="nsp").plan(0)


def test_draws_match_the_published_splitmix64():
    """The first outputs of SplitMix64 seeded with 1234567 (Vigna's reference implementation)."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert draws.bits(1234567, np.arange(4)).tolist() == expected
    many = draws.uniform(draws.bits(draws.key("test"), np.arange(100_000)))
    assert many.min() >= 0 and many.max() < 1 and many.mean() == pytest.approx(0.5, abs=0.005)
    assert np.bincount(draws.below(draws.bits(3, np.arange(70_000)), 7)).min() > 9_500
