"""Pretraining examples: segment pairs for the sentence objective, n-gram masks, batches.

The pairs follow the ALBERT release (create_pretraining_data.py): whole consecutive sentences of one document
fill the sequence, are split at a random sentence end into A and B, and half of the pairs are swapped. Which sequences
are short is drawn for each (the paper's "probability of 10 %"), in the release once a document. Masks are drawn afresh
every epoch. Every draw is a pure function of (seed, epoch, sample). The same in loops, one sample at a time, is
`data/native/examples.py`: read it first.

Legend: B samples, T tokens of the longest of them, M masked tokens, V pieces of the vocabulary.
"""
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from data import draws
from data.errors import DataError

NO_LABEL = -100        # takes no part in a loss: a sample in the sentence objective, a token in tagging
_BLOCK = 1 << 20       # sentences planned at a time, so that memory does not grow with the corpus
_CORRUPTION, _SIZES, _CHOICE, _ROUNDING = 1, 2, 3, 4        # streams of the draws for a row's masks


class Plan(NamedTuple):
    """Where the samples of an epoch lie in the token store, in the order they are read: each (samples,)."""
    a_start: np.ndarray    # first token of segment A
    a_length: np.ndarray   # tokens
    b_start: np.ndarray
    b_length: np.ndarray   # 0: the sample is one segment
    label: np.ndarray      # SOP: 1 = swapped; NSP: 1 = random; NO_LABEL
    length: np.ndarray     # tokens with [CLS] and [SEP]


class PretrainingExamples:
    """The samples of some documents of a token store, for any epoch.

    ``documents`` are the store's documents to use, ascending; ``specials`` has the ids ``pad unk cls sep mask``;
    ``word_starts`` (V,) is true for pieces that begin a word.
    """

    def __init__(self, store, documents, specials, word_starts, *, seed, seq_len, mask_prob, max_ngram,
                 whole_words, short_seq_prob, sentence_objective):
        if sentence_objective not in ("sop", "nsp", "none"):
            raise DataError(f"sentence_objective={sentence_objective}: there are sop, nsp and none")
        if seq_len < 8:
            raise DataError(f"seq_len={seq_len}: a sequence needs at least 8 tokens")
        self.store, self.documents, self.specials = store, np.asarray(documents), specials
        self.starts_word = np.asarray(word_starts) if whole_words else np.ones(len(word_starts), bool)
        self.ordinary_ids = np.setdiff1d(np.arange(len(word_starts)), list(vars(specials).values()))
        self.seed, self.mask_prob, self.short_seq_prob = seed, mask_prob, short_seq_prob
        self.seq_len, self.objective = seq_len, sentence_objective
        weights = 1 / np.arange(1, max_ngram + 1)            # p(n) ∝ 1/n: ALBERT, section 4.1
        self.ngram_cdf = np.cumsum(weights / weights.sum())[:-1]
        self.plan = lru_cache(maxsize=2)(self._plan)

    def _key(self, purpose, epoch):
        return draws.key(self.seed, purpose, epoch)

    def _plan(self, epoch):
        """The samples of ``epoch``: a Plan. Short sequences are drawn afresh, so their number varies a little."""
        chosen = np.zeros(self.store.num_documents, bool)
        chosen[self.documents] = True
        bounds = self.store.document_offsets
        sentences = np.arange(0, self.store.num_sentences + _BLOCK, _BLOCK)
        cuts = np.unique(np.minimum(np.searchsorted(bounds, sentences), self.store.num_documents))
        blocks = [self._plan_block(epoch, begin, end, chosen[begin:end])
                  for begin, end in zip(cuts[:-1], cuts[1:])]
        plan = Plan(*map(np.concatenate, zip(*blocks)))
        order = draws.permutation(self._key("order", epoch), len(plan.label))
        return Plan(*(column[order] for column in plan))

    def _plan_block(self, epoch, begin, end, chosen):
        """The samples of documents [begin, end), in the order of the text."""
        bounds = np.asarray(self.store.document_offsets[begin:end + 1])
        offsets = np.asarray(self.store.sentence_offsets[bounds[0]:bounds[-1] + 1])
        sentence = np.arange(bounds[0], bounds[-1])
        document_end = np.repeat(bounds[1:], np.diff(bounds))
        room = self.seq_len - (2 if self.objective == "none" else 3)

        # Each sentence as the first of a chunk: the chunk ends with the sentence that reaches the target.
        is_short, short_target, split, coin = (
            draws.bits(self._key(purpose, epoch), sentence) for purpose in ("short", "target", "split", "coin"))
        target = np.where(draws.uniform(is_short) < self.short_seq_prob,
                          2 + draws.below(short_target, room - 1), room)
        last = bounds[0] + np.searchsorted(offsets, offsets[:-1] + target)
        last = np.minimum(np.maximum(last, sentence + 1), document_end)
        count = last - sentence
        middle = sentence + 1 + draws.below(split, np.maximum(count - 1, 1))
        paired = (count > 1) & (self.objective != "none")
        label = np.where(paired, (coin >> np.uint64(63)).astype(np.int64), NO_LABEL)

        # A chunk is followed by the next; with a random B, by its own unused second part.
        following = np.where((label == 1) & (self.objective == "nsp"), middle, last)
        following = (following - bounds[0]).tolist()
        at, heads = 0, []
        while at < len(following):
            heads.append(at)
            at = following[at]
        heads = np.array(heads, np.int64)
        heads = heads[np.repeat(chosen, np.diff(bounds))[heads]]

        tokens = self.store.sentence_offsets
        first, middle, last, label, target = (x[heads] for x in (sentence, middle, last, label, target))
        middle = np.where(label == NO_LABEL, last, middle)
        a_start, b_start = tokens[first], tokens[middle]
        a_length, b_length = b_start - a_start, tokens[last] - b_start
        if self.objective == "nsp":
            random_start, random_length = self._random_segment(epoch, first, target - a_length)
            b_start = np.where(label == 1, random_start, b_start)
            b_length = np.where(label == 1, random_length, b_length)
        elif self.objective == "sop":
            swap = label == 1
            a_start, b_start = np.where(swap, b_start, a_start), np.where(swap, a_start, b_start)
            a_length, b_length = np.where(swap, b_length, a_length), np.where(swap, a_length, b_length)
        a_start, a_length, b_start, b_length = self._truncate(epoch, first, a_start, a_length, b_start, b_length)
        return Plan(a_start, a_length, b_start, b_length, label, a_length + b_length + np.where(b_length > 0, 3, 2))

    def _random_segment(self, epoch, sentence, target):
        """Whole sentences of another document, from a random one until ``target`` tokens: starts and lengths."""
        if len(self.documents) < 2:
            raise DataError("sentence_objective=nsp takes B from another document: training and held-out text need two each; "
                            "give more documents, or --set sentence_objective=sop")
        pick, begin = (draws.bits(self._key(purpose, epoch), sentence) for purpose in ("document", "begin"))
        own = np.searchsorted(self.store.document_offsets, sentence, side="right") - 1
        rank = draws.below(pick, len(self.documents) - 1)
        other = self.documents[rank + (rank >= np.searchsorted(self.documents, own))]
        low, high = self.store.document_offsets[other], self.store.document_offsets[other + 1]
        first = low + draws.below(begin, high - low)
        tokens = self.store.sentence_offsets
        last = np.searchsorted(tokens, tokens[first] + np.maximum(target, 1))
        last = np.minimum(np.maximum(last, first + 1), high)
        return tokens[first], tokens[last] - tokens[first]

    def _truncate(self, epoch, sentence, a_start, a_length, b_start, b_length):
        """Cut what does not fit from the longer segment, at its front and back by a random share.

        The release removes token after token from the longer segment, at the front or the back by a coin; the
        lengths are the same here, the share cut at the front is uniform.
        """
        room = self.seq_len - np.where(b_length > 0, 3, 2)
        excess = np.maximum(a_length + b_length - room, 0)
        difference = a_length - b_length
        from_a = np.minimum(excess, np.maximum(difference, 0))
        from_b = np.minimum(excess, np.maximum(-difference, 0))
        rest = excess - from_a - from_b
        from_a, from_b = from_a + rest // 2, from_b + rest - rest // 2
        a_front = draws.below(draws.bits(self._key("cut a", epoch), sentence), from_a + 1)
        b_front = draws.below(draws.bits(self._key("cut b", epoch), sentence), from_b + 1)
        return a_start + a_front, a_length - from_a, b_start + b_front, b_length - from_b

    def batch(self, epoch, samples):
        """The samples numbered ``samples`` (B,) of ``epoch`` as a dictionary of arrays.

        input_ids, token_type_ids (B, T) int64; attention_mask (B, T) bool, true = token; masked_positions (M,)
        int64, into the flattened (B * T); mlm_labels (M,) int64; sentence_labels (B,) int64. T is a multiple of 8, or
        seq_len.
        """
        plan = Plan(*(column[samples] for column in self.plan(epoch)))
        width = min(-(-plan.length.max() // 8) * 8, self.seq_len)
        position = np.arange(width)[None, :]
        a_start, a_length, b_start, b_length = (x[:, None] for x in plan[:4])
        length = plan.length[:, None]
        in_b = (position > a_length + 1) & (position < length)
        ordinary = (position > 0) & (position != a_length + 1) & (position < length - 1)
        source = np.where(in_b, b_start + position - a_length - 2, a_start + position - 1)
        ids = self.store.tokens[np.where(ordinary, source, 0)].astype(np.int64)
        ids[~ordinary] = self.specials.sep
        ids[:, 0] = self.specials.cls
        attention = position < length
        ids[~attention] = self.specials.pad

        begins_word = ordinary & self.starts_word[ids]
        begins_word[:, 1:] |= ordinary[:, 1:] & ~ordinary[:, :-1]
        keys = draws.bits(self._key("mask", epoch), samples)[:, None]
        masked = self._choose_masked(keys, ordinary, begins_word, position == a_length + 2)
        flat = np.flatnonzero(masked)
        labels = ids.reshape(-1)[flat]
        ids.reshape(-1)[flat] = self._corrupt(draws.bits(draws.bits(keys, _CORRUPTION), position).reshape(-1)[flat], labels)
        return dict(input_ids=ids, token_type_ids=in_b.astype(np.int64), attention_mask=attention,
                    masked_positions=flat, mlm_labels=labels, sentence_labels=plan.label)

    def _choose_masked(self, keys, ordinary, begins_word, begins_segment):
        """Tokens to predict, (B, T) bool: a share ``mask_prob`` of the whole n-grams of words of each row.

        The words of a row are laid out in n-grams of random length, p(n) ∝ 1/n, of which a random choice is taken.
        Its number is rounded up or down by a draw, so that ``mask_prob`` of the tokens is what is expected and the
        n-grams keep their distribution; none is cut but by the end of its segment.
        """
        rows, width = ordinary.shape
        number = np.arange(width)[None, :]
        row = np.arange(rows)[:, None]
        sizes = 1 + np.searchsorted(self.ngram_cdf, draws.uniform(draws.bits(draws.bits(keys, _SIZES), number)), "right")
        word = np.cumsum(begins_word, axis=1) - 1
        begin_words = np.cumsum(sizes, axis=1) - sizes            # first word of each n-gram
        opens = np.zeros((rows, width + 1), bool)
        opens[row, np.minimum(begin_words, width)] = True
        opens = begins_word & (opens[row, word] | begins_segment)
        ngram = np.where(ordinary, np.cumsum(opens, axis=1) - 1, width - 1)
        count = opens.sum(axis=1, keepdims=True)
        draw = draws.bits(draws.bits(keys, _CHOICE), number)
        order = np.argsort(np.where(number < count, draw, ~np.uint64(0)), axis=1)
        budget = np.floor(self.mask_prob * count + draws.uniform(draws.bits(keys, _ROUNDING)))
        taken = np.zeros((rows, width), bool)
        np.put_along_axis(taken, order, number < budget, axis=1)
        return ordinary & taken[row, ngram]

    def _corrupt(self, draw, labels):
        """What stands in place of masked tokens, (M,): 80 % [MASK], 10 % the token itself, 10 % a random one."""
        kind = draws.uniform(draw)
        other = self.ordinary_ids[draws.below(draw << np.uint64(32), len(self.ordinary_ids))]
        return np.where(kind < 0.8, self.specials.mask, np.where(kind < 0.9, labels, other))
