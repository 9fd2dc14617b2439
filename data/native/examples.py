"""Pretraining examples one by one: segment pairs for the sentence objective, n-gram masks, batches.

The release's create_pretraining_data.py in the form of loops: whole consecutive sentences of one document fill a
sequence, are split at a random sentence end into A and B, and half of the pairs are swapped. Every draw is a pure
function of (seed, epoch, sample), the same as in the fast pipeline, and so are the batches.
"""
from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from data.errors import DataError
from data.native.chance import below, bits, key, uniform

NO_LABEL = -100        # sentence label of a sample that takes no part in the sentence objective
_CORRUPTION, _SIZES, _CHOICE, _ROUNDING = 1, 2, 3, 4        # streams of the draws for a row's masks


class Sample(NamedTuple):
    """Where a sample lies in the token store."""
    a_start: int       # first token of segment A
    a_length: int      # tokens
    b_start: int
    b_length: int      # 0: the sample is one segment
    label: int         # SOP: 1 = swapped; NSP: 1 = random; NO_LABEL

    @property
    def length(self) -> int:
        """Tokens with [CLS] and [SEP]."""
        return self.a_length + self.b_length + (3 if self.b_length else 2)


class Plan(NamedTuple):
    """The samples of an epoch in the order they are read; what training asks of all of them, as arrays."""
    samples: list[Sample]
    length: np.ndarray
    label: np.ndarray


class PretrainingExamples:
    """The samples of some documents of a token store, for any epoch.

    ``documents``: the store's documents to use, ascending; ``specials`` has the ids ``pad unk cls sep mask``;
    ``word_starts``: whether each piece begins a word.
    """

    def __init__(self, store, documents, specials, word_starts, *, seed, seq_len, mask_prob, max_ngram,
                 whole_words, short_seq_prob, sentence_objective):
        if sentence_objective not in ("sop", "nsp", "none"):
            raise DataError(f"sentence_objective={sentence_objective}: there are sop, nsp and none")
        if seq_len < 8:
            raise DataError(f"seq_len={seq_len}: a sequence needs at least 8 tokens")
        self.store, self.documents, self.specials = store, np.asarray(documents), specials
        self.starts_word = list(word_starts) if whole_words else [True] * len(word_starts)
        special = set(vars(specials).values())
        self.ordinary_ids = [index for index in range(len(word_starts)) if index not in special]
        self.seed, self.mask_prob, self.short_seq_prob = seed, mask_prob, short_seq_prob
        self.seq_len, self.objective = seq_len, sentence_objective
        weights = [1 / n for n in range(1, max_ngram + 1)]           # p(n) ∝ 1/n: ALBERT, section 4.1
        self.ngram_cdf = list(accumulate(weight / sum(weights) for weight in weights))[:-1]
        self.plan = lru_cache(maxsize=2)(self._plan)

    def _draw(self, purpose: str, epoch: int, index: int) -> int:
        return bits(key(self.seed, purpose, epoch), index)

    def _plan(self, epoch: int) -> Plan:
        """The samples of ``epoch``, shuffled."""
        bounds, chosen, samples = self.store.document_offsets, set(self.documents.tolist()), []
        for document in range(self.store.num_documents):
            if document in chosen:
                samples += self.document_samples(epoch, int(bounds[document]), int(bounds[document + 1]))
        order = key(self.seed, "order", epoch)
        samples = [samples[i] for i in sorted(range(len(samples)), key=lambda i: bits(order, i))]
        return Plan(samples, np.array([sample.length for sample in samples]),
                    np.array([sample.label for sample in samples]))

    def document_samples(self, epoch: int, first: int, end: int) -> list[Sample]:
        """The samples of the document of the sentences [first, end), in the order of the text."""
        offsets = self.store.sentence_offsets[first:end + 1].tolist()      # first token of each sentence
        room = self.seq_len - (2 if self.objective == "none" else 3)
        samples, sentence = [], first
        while sentence < end:
            target = room
            if uniform(self._draw("short", epoch, sentence)) < self.short_seq_prob:
                target = 2 + below(self._draw("target", epoch, sentence), room - 1)
            # The chunk ends with the sentence that reaches the target.
            begin = offsets[sentence - first]
            last = sentence + 1
            while last < end and offsets[last - first] - begin < target:
                last += 1
            middle, label = last, NO_LABEL
            if last - sentence > 1 and self.objective != "none":
                middle = sentence + 1 + below(self._draw("split", epoch, sentence), last - sentence - 1)
                label = self._draw("coin", epoch, sentence) >> 63
            a = (begin, offsets[middle - first] - begin)
            b = (offsets[middle - first], offsets[last - first] - offsets[middle - first])
            if self.objective == "sop" and label == 1:
                a, b = b, a
            if self.objective == "nsp":
                random = self.random_segment(epoch, sentence, target - a[1])
                if label == 1:
                    b = random
                    last = middle                        # the unused second part begins the next chunk
            samples.append(Sample(*self.truncate(epoch, sentence, a, b), label))
            sentence = last
        return samples

    def random_segment(self, epoch: int, sentence: int, target: int) -> tuple[int, int]:
        """Whole sentences of another document, from a random one until ``target`` tokens: first token, tokens."""
        if len(self.documents) < 2:
            raise DataError("sentence_objective=nsp takes B from another document, and there is only one: "
                            "give more documents, or --set sentence_objective=sop")
        documents, tokens = self.store.document_offsets, self.store.sentence_offsets
        own = bisect_right(documents, sentence) - 1
        rank = below(self._draw("document", epoch, sentence), len(self.documents) - 1)
        other = self.documents[rank + (rank >= bisect_left(self.documents, own))]
        low, high = int(documents[other]), int(documents[other + 1])
        first = low + below(self._draw("begin", epoch, sentence), high - low)
        last = first + 1
        while last < high and tokens[last] - tokens[first] < target:
            last += 1
        return int(tokens[first]), int(tokens[last] - tokens[first])

    def truncate(self, epoch: int, sentence: int, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int, int, int]:
        """Cut what does not fit from the longer segment, then from both alike, at front and back by a random share.

        The release removes token after token, at the front or the back by a coin: the lengths are the same.
        """
        (a_start, a_length), (b_start, b_length) = a, b
        excess = max(a_length + b_length - (self.seq_len - (3 if b_length else 2)), 0)
        from_a = min(excess, max(a_length - b_length, 0))
        from_b = min(excess, max(b_length - a_length, 0))
        rest = excess - from_a - from_b
        from_a, from_b = from_a + rest // 2, from_b + rest - rest // 2
        a_start += below(self._draw("cut a", epoch, sentence), from_a + 1)
        b_start += below(self._draw("cut b", epoch, sentence), from_b + 1)
        return a_start, a_length - from_a, b_start, b_length - from_b

    def row(self, epoch: int, number: int) -> tuple[list[int], list[int]]:
        """Ids [CLS] A [SEP] B [SEP] and token types of the sample ``number`` of ``epoch``, nothing masked."""
        a_start, a_length, b_start, b_length, _ = self.plan(epoch).samples[number]
        cls, sep, tokens = self.specials.cls, self.specials.sep, self.store.tokens
        ids = [cls, *tokens[a_start:a_start + a_length].tolist(), sep]
        types = [0] * len(ids)
        if b_length:
            ids += [*tokens[b_start:b_start + b_length].tolist(), sep]
            types += [1] * (b_length + 1)
        return ids, types

    def ngrams(self, epoch: int, number: int, ids: list[int], types: list[int]) -> list[list[int]]:
        """The row's tokens but [CLS] and [SEP] as n-grams of words, each a list of places in the row.

        The words are laid out in n-grams of random length, p(n) ∝ 1/n, none of which reaches from A into B.
        """
        sizes = bits(self._draw("mask", epoch, number), _SIZES)
        groups: list[list[int]] = []
        word, opening, drawn = -1, 0, 0          # opening: the word that the next n-gram begins with
        for place in range(1, len(ids) - 1):
            if types[place] != types[place + 1]:         # the [SEP] between A and B
                continue
            begins_segment = place == 1 or types[place - 1] != types[place]
            if self.starts_word[ids[place]] or begins_segment:
                word += 1
                if word == opening:
                    opening += 1 + bisect_right(self.ngram_cdf, uniform(bits(sizes, drawn)))
                    drawn += 1
                    groups.append([])
                elif begins_segment:
                    groups.append([])
            groups[-1].append(place)
        return groups

    def masked_places(self, epoch: int, number: int, groups: list[list[int]]) -> list[int]:
        """Places to predict: a random choice of the n-grams, ``mask_prob`` of them rounded up or down by a draw."""
        row = self._draw("mask", epoch, number)
        choice = bits(row, _CHOICE)
        budget = int(self.mask_prob * len(groups) + uniform(bits(row, _ROUNDING)))
        order = sorted(range(len(groups)), key=lambda group: bits(choice, group))
        return sorted(place for group in order[:budget] for place in groups[group])

    def shown(self, epoch: int, number: int, place: int, token: int) -> int:
        """What stands in place of a masked token: 80 % [MASK], 10 % the token itself, 10 % a random one."""
        draw = bits(bits(self._draw("mask", epoch, number), _CORRUPTION), place)
        kind = uniform(draw)
        if kind < 0.8:
            return self.specials.mask
        return token if kind < 0.9 else self.ordinary_ids[below((draw << 32) & 0xFFFFFFFFFFFFFFFF, len(self.ordinary_ids))]

    def batch(self, epoch: int, samples) -> dict[str, np.ndarray]:
        """The samples numbered ``samples`` (B,) of ``epoch`` as a dictionary of arrays.

        input_ids, token_type_ids (B, T) int64; attention_mask (B, T) bool, true = token; masked_positions (M,)
        int64, into the flattened (B * T); mlm_labels (M,) int64; sentence_labels (B,) int64. T is a multiple of 8, or
        seq_len.
        """
        rows = [self.row(epoch, int(number)) for number in samples]
        width = min(-(-max(len(ids) for ids, _ in rows) // 8) * 8, self.seq_len)
        input_ids = np.full((len(rows), width), self.specials.pad, np.int64)
        token_type_ids, attention = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), bool)
        positions, labels = [], []
        for line, (number, (ids, types)) in enumerate(zip(map(int, samples), rows)):
            for place in self.masked_places(epoch, number, self.ngrams(epoch, number, ids, types)):
                positions.append(line * width + place)
                labels.append(ids[place])
                ids[place] = self.shown(epoch, number, place, ids[place])
            input_ids[line, :len(ids)], token_type_ids[line, :len(ids)] = ids, types
            attention[line, :len(ids)] = True
        return dict(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention,
                    masked_positions=np.array(positions, np.int64), mlm_labels=np.array(labels, np.int64),
                    sentence_labels=self.plan(epoch).label[np.asarray(samples)])
