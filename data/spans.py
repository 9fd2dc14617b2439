"""Answer spans from the logits of a window."""
import numpy as np

BEST_SPANS = 20              # as in the release's run_squad_v2.py, tokens:
ANSWER_TOKENS = 30


def best_spans(start, end, usable, central):
    """The best (score, first token, last token) of a window, best first, and the score of no answer.

    start, end (T,): logits. usable (T,): whether a token belongs to the context; ``central`` as in
    `data.features.Features`: an answer may begin only at such a token.
    """
    begins = np.flatnonzero(usable & central)
    finishes = np.flatnonzero(usable)
    begins = begins[np.argsort(-start[begins], kind="stable")[:BEST_SPANS]]
    finishes = finishes[np.argsort(-end[finishes], kind="stable")[:BEST_SPANS]]
    length = finishes - begins[:, None] + 1
    rows, columns = np.nonzero((length >= 1) & (length <= ANSWER_TOKENS))
    scores = start[begins[rows]] + end[finishes[columns]]
    best = np.argsort(-scores, kind="stable")[:BEST_SPANS]
    spans = [(float(scores[index]), int(begins[rows[index]]), int(finishes[columns[index]])) for index in best]
    return spans, float(start[0] + end[0])
