"""Unigram language model of a word's segmentations: the lattice, its best path, its sums.

Kudo 2018 (Subword Regularization), section 3.2. A segmentation x = (x_1 ... x_M) of a text X into pieces of the
vocabulary has the probability P(x) = Π p(x_i); P(X) is the sum over all segmentations of X, S(X).
"""
import math

UNKNOWN_PENALTY = 10.0       # nats below the least likely piece, as in SentencePiece

Edge = tuple[int, int, str, float]    # (start, end, piece, log p(piece)): word[start:end] is the piece


def lattice(word: str, scores: dict[str, float], longest: int, unknown: float | None = None) -> list[Edge]:
    """All pieces that occur in ``word``, ordered by start, then by length.

    scores: piece to log probability (nats); longest: characters of the longest piece. A character that is no piece
    gets an edge of log probability ``unknown``, without which some words have no path.
    """
    edges, length = [], len(word)
    for start in range(length):
        if unknown is not None and word[start] not in scores:
            edges.append((start, start + 1, word[start], unknown))
        for end in range(start + 1, min(start + longest, length) + 1):
            piece = word[start:end]
            if piece in scores:
                edges.append((start, end, piece, scores[piece]))
    return edges


def viterbi(edges: list[Edge], length: int) -> tuple[list[Edge], float]:
    """The most probable path x* = argmax P(x) over S(X), and log P(x*); no edge and -inf where there is none.

    The best path that ends at a place extends the best one to where its last piece starts. Of equally good ones the
    one with the longest last piece is kept, as in 🤗 Tokenizers.
    """
    best = [0.0] + [-math.inf] * length
    last: list[Edge | None] = [None] * (length + 1)
    for edge in edges:                   # edges are ordered by start: best[start] is final when it is read
        start, end, _, score = edge
        if best[start] + score > best[end]:
            best[end], last[end] = best[start] + score, edge
    path, place = [], length
    while place and last[place]:
        path.append(last[place])
        place = last[place][0]
    return path[::-1], best[length]


def forward(edges: list[Edge], length: int) -> list[float]:
    """alpha[i] = log of the summed probability of all paths from 0 to i, (length + 1,); alpha[-1] is log P(X)."""
    alpha = [0.0] + [-math.inf] * length
    for start, end, _, score in edges:
        alpha[end] = add_logs(alpha[end], alpha[start] + score)
    return alpha


def backward(edges: list[Edge], length: int) -> list[float]:
    """beta[i] = log of the summed probability of all paths from i to the end, (length + 1,)."""
    beta = [-math.inf] * length + [0.0]
    for start, end, _, score in reversed(edges):
        beta[start] = add_logs(beta[start], beta[end] + score)
    return beta


def posteriors(edges: list[Edge], length: int) -> tuple[list[float], float]:
    """P(edge | X) of each edge, exp(alpha[start] + score + beta[end]) / P(X), and log P(X): the E-step for one word."""
    alpha, beta = forward(edges, length), backward(edges, length)
    total = alpha[length]
    return [math.exp(alpha[start] + score + beta[end] - total) for start, end, _, score in edges], total


def add_logs(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))
