"""Answer spans from the logits of a window."""
import math

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


def best_answers(context, windows):
    """The best (score, first character, end) of a context, best first and without blanks at the ends, and the score of no
    answer, the least of the windows'.

    windows: of each the logits of start and end (at least T,), and ``first``, ``last`` and ``central`` (T,) as in
    `data.features.Features`.
    """
    found, nothing = [], math.inf
    for start, end, first, last, central in windows:
        spans, none = best_spans(start[:len(first)], end[:len(first)], first >= 0, central.astype(bool))
        nothing = min(nothing, none)
        for score, a, b in spans:
            text = context[first[a]:last[b]]
            begin = int(first[a]) + len(text) - len(text.lstrip())
            if text := text.strip():
                found.append((score, begin, begin + len(text)))
    return sorted(found, key=lambda span: -span[0]), nothing
