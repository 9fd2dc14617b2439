"""Training of a Unigram vocabulary by the steps of Kudo 2018, section 3.2, with the refinements of SentencePiece.

1: many seed pieces. 2, in turn: (a) EM, which fits their probabilities; (b, c) pruning, which keeps the pieces whose
loss the likelihood L = Σ_words count · log P(word) would feel most; until as few are left as were asked for.
"""
import heapq
import math
import random
import string
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Set
from functools import partial

from data.errors import DataError
from data.native.tokenizer import Tokenizer
from data.native.unigram import lattice, posteriors, viterbi
from data.native.vocabulary import ALBERT_SPECIALS, albert_tokenizer

SAMPLE_BYTES = 20_000_000
CHARACTER_COVERAGE = 0.99995  # as ALBERT's vocabulary was trained; the rarest characters become <unk>,
REQUIRED_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation + "▁"  # but never these
LONGEST_PIECE = 16           # characters
SEEDS = 20                   # seed pieces for each one that is wanted
EM_STEPS = 2                 # between two prunings
KEPT = 0.85                  # share of the pieces that a pruning keeps
LEAST_EXPECTED = 0.5         # pieces that are expected less often are dropped


def train_tokenizer(paragraphs: Iterable[str], vocab_size: int, seed: int, progress: bool = True,
                    lower_case: bool = True, strip_accents: bool = True) -> Tokenizer:
    """A Unigram tokenizer of up to ``vocab_size`` pieces, trained on the text or a sample of ``SAMPLE_BYTES`` of it, in
    lower case and without accents unless they are to stay.

    The same paragraphs and seed give the same vocabulary. DataError where there is no text, or where ``vocab_size``
    is too small for its characters.
    """
    tokenizer = partial(albert_tokenizer, unk_id=1, lower=lower_case, keep_accents=not strip_accents)
    normaliser = tokenizer([(token, 0.0) for token in ALBERT_SPECIALS])
    counts = count_words(sample(paragraphs, seed), normaliser)
    if not counts:
        raise DataError("no text to train a tokenizer on")
    scores = train_unigram(counts, vocab_size - len(ALBERT_SPECIALS), progress)
    # Rounded, since the last digits depend on the machine's logarithm.
    scored = sorted((-round(score, 4), piece) for piece, score in scores.items())
    return tokenizer([(token, 0.0) for token in ALBERT_SPECIALS] + [(piece, -loss) for loss, piece in scored])


def sample(paragraphs: Iterable[str], seed: int) -> list[str]:
    """All paragraphs, or ``SAMPLE_BYTES`` of them: those with the highest of random ranks."""
    chance, heap, size = random.Random(seed), [], 0
    for index, paragraph in enumerate(paragraphs):
        heapq.heappush(heap, (chance.random(), index, paragraph))
        size += len(paragraph.encode())
        while size > SAMPLE_BYTES:
            size -= len(heapq.heappop(heap)[2].encode())
    return [paragraph for _, _, paragraph in heap]


def count_words(paragraphs: Iterable[str], tokenizer: Tokenizer) -> dict[str, int]:
    """How often each word of the normalised text occurs, with its ``▁``, in alphabetical order."""
    raw, counts = Counter(), Counter()
    for paragraph in paragraphs:
        raw.update(paragraph.split())
    for text, count in raw.items():
        for word in tokenizer.words(tokenizer.normalize(text)):
            counts[word] += count
    return dict(sorted(counts.items()))


def train_unigram(counts: dict[str, int], size: int, progress: bool = False) -> dict[str, float]:
    """``size`` pieces and their log probabilities (nats), trained on counted words; fewer where the text has fewer.

    Required characters that the text has not come last.
    """
    characters = covered_characters(counts)
    if len(characters) > size:
        raise DataError(f"vocab_size={size + len(ALBERT_SPECIALS)} is too small for the {len(characters)} different "
                        f"characters of this text: --set vocab_size={2 * len(characters) + 10} or more works")
    words = Counter()
    for word, count in counts.items():
        for part in "".join(c if c in characters else "\n" for c in word).split("\n"):
            words[part] += count
    del words[""]
    scores = seed_pieces(words, characters, SEEDS * size)
    absent = sorted(characters - set("".join(words)))
    wanted = size - len(absent)
    while True:
        staying = scores.keys() if len(scores) == wanted else characters
        for _ in range(EM_STEPS):
            expected, log_likelihood = expectation(words, scores)
            scores = maximization(expected, staying)
        if progress:
            print(f"{len(scores):,} pieces: {log_likelihood / sum(words.values()):.4f} nats a word", file=sys.stderr,
                  flush=True)
        if len(scores) <= wanted:
            break
        scores = prune(words, scores, max(wanted, int(KEPT * len(scores))), characters)
    least = min(scores.values())
    return scores | {character: least - 1e-4 * number for number, character in enumerate(absent, 1)}


def covered_characters(counts: dict[str, int]) -> set[str]:
    """The most frequent characters that make up ``CHARACTER_COVERAGE`` of the text, and the required ones."""
    frequency = Counter()
    for word, count in counts.items():
        for character in word:
            frequency[character] += count
    rest = CHARACTER_COVERAGE * sum(frequency.values())
    covered = set(REQUIRED_CHARACTERS)
    for character, count in sorted(frequency.items(), key=lambda item: (-item[1], item[0])):
        if rest <= 0:
            break
        covered.add(character)
        rest -= count
    return covered


def seed_pieces(words: dict[str, int], characters: set[str], size: int) -> dict[str, float]:
    """Step 1: the ``size`` n-grams that cover the most text, count · length, and all characters: log of their share."""
    frequency = Counter()
    for word, count in words.items():
        for start, end in allowed_spans(word):
            frequency[word[start:end]] += count
    weight = {piece: count * len(piece) for piece, count in frequency.items() if count > 1 and len(piece) > 1}
    best = sorted(weight, key=lambda piece: (-weight[piece], piece))[:size]
    chosen = {piece: weight[piece] for piece in best} | {c: frequency[c] for c in characters if frequency[c]}
    total = math.log(sum(chosen.values()))
    return {piece: math.log(value) - total for piece, value in chosen.items()}


def allowed_spans(word: str) -> Iterable[tuple[int, int]]:
    """The stretches of a word that may become a piece, of one script each: `don't` makes no piece `n't`.

    As SentencePiece's split_by_unicode_script and split_by_number; `▁` may stand in front of any script.
    """
    scripts = [script(character) for character in word]
    for start in range(len(word)):
        first = scripts[start]
        for end in range(start + 1, min(start + LONGEST_PIECE, len(word)) + 1):
            if scripts[end - 1] != first and word[start] != "▁" or word[end - 1] == "▁" and end - 1 > start:
                break
            if end - start == 2:
                first = scripts[start + 1]
            if scripts[end - 1] != first and end - start > 2:
                break
            yield start, end


def script(character: str) -> str:
    """The script of a letter, by the first word of its name; NUMBER; OTHER for marks and punctuation."""
    category = unicodedata.category(character)[0]
    if category == "N":
        return "NUMBER"
    return unicodedata.name(character, "OTHER").split()[0] if category == "L" else "OTHER"


def expectation(words: dict[str, int], scores: dict[str, float]) -> tuple[dict[str, float], float]:
    """Step 2a, E: how often each piece is expected in the segmentations of the text, and L.

    E[n(piece)] = Σ_words count · Σ_edges P(edge | word), over the edges that bear the piece.
    """
    expected, likelihood, longest = defaultdict(float), 0.0, max(map(len, scores))
    for word, count in words.items():
        edges = lattice(word, scores, longest)
        shares, log_probability = posteriors(edges, len(word))
        likelihood += count * log_probability
        for (_, _, piece, _), share in zip(edges, shares):
            expected[piece] += count * share
    return expected, likelihood


def maximization(expected: dict[str, float], staying: Set[str]) -> dict[str, float]:
    """Step 2a, M: log p(piece) = ψ(E[n(piece)]) - ψ(Σ E[n]), where plain EM has the logarithm.

    The digamma function ψ is that of variational Bayes with a sparse prior (Liang and Klein 2007), as in SentencePiece:
    rare pieces lose more. Pieces that are hardly expected are dropped, but for those that are to stay, among them all
    characters: every word keeps a segmentation.
    """
    kept = {piece: count for piece, count in expected.items() if count >= LEAST_EXPECTED or piece in staying}
    total = digamma(sum(kept.values()))
    return {piece: digamma(max(count, LEAST_EXPECTED)) - total for piece, count in kept.items()}


def digamma(x: float) -> float:
    """ψ(x) for x > 0 to 1e-12: the recurrence ψ(x) = ψ(x + 1) - 1/x up to 10, then the asymptotic series."""
    shift = 0.0
    while x < 10:
        shift -= 1 / x
        x += 1
    square = 1 / (x * x)
    series = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square / 132))))
    return shift + math.log(x) - 1 / (2 * x) - series


def prune(words: dict[str, int], scores: dict[str, float], size: int, characters: set[str]) -> dict[str, float]:
    """Steps 2b and 2c: the ``size`` pieces whose removal would lower L the most, and all characters.

    The loss of a piece, loss_i in the paper, is estimated as SentencePiece does: were it removed, each of its
    occurrences on the best paths would be segmented as the piece itself then is, and those pieces would be as much
    more frequent.
    """
    longest = max(map(len, scores))
    used = Counter()                              # occurrences on best paths
    for word, count in words.items():
        path, _ = viterbi(lattice(word, scores, longest), len(word))
        for _, _, piece, _ in path:
            used[piece] += count
    total = sum(used.values())
    losses = {}
    for piece in scores:
        if piece in characters or not used[piece]:
            continue
        others = [edge for edge in lattice(piece, scores, longest) if edge[2] != piece]
        path, _ = viterbi(others, len(piece))
        now = math.log(used[piece] / total)
        total_then = total + used[piece] * (len(path) - 1)
        then = sum(math.log((used[other] + used[piece]) / total_then) for _, _, other, _ in path)
        losses[piece] = used[piece] * (now - then)
    kept = [piece for piece in scores if piece in characters]
    kept += sorted(losses, key=lambda piece: (-losses[piece], piece))[:max(size - len(kept), 0)]
    return {piece: scores[piece] for piece in kept}
