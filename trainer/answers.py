"""SQuAD's exact match and F1 (its evaluate-v1.1.py and evaluate-v2.0.py), and the best threshold of no answer."""
import re
import string
from collections import Counter
from functools import partial

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer):
    """Lower case, no punctuation, no articles, single blanks."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer, gold):
    return float(normalize(answer) == normalize(gold))


def f1(answer, gold, both_empty=1.0):
    """Harmonic mean of precision and recall of the words; ``both_empty`` where neither has any (in version 1.1: 0)."""
    ours, theirs = normalize(answer).split(), normalize(gold).split()
    if not ours or not theirs:
        return both_empty * (ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def evaluate(answers, log_odds, golds):
    """{"f1", "exact_match"}, means over questions, and for questions of which some have no answer "threshold":
    where the ``log_odds`` of there being none are above it, none is given. It is the one of the best F1.

    answers: the best text of each. log_odds: score of no answer less that of the best span. golds: lists of texts.
    """
    nothing = np.array([not texts for texts in golds])
    if nothing.any():                                      # version 2.0 passes over golds that normalise to nothing
        golds = [[text for text in texts if normalize(text)] or [""] for texts in golds]
    exact, overlap = (np.array([max(score(answer, text) for text in texts) for answer, texts in zip(answers, golds)])
                      for score in (exact_match, partial(f1, both_empty=float(nothing.any()))))
    if not nothing.any():
        return {"f1": float(overlap.mean()), "exact_match": float(exact.mean())}
    # Threshold at each of the log-odds in turn, ascending: the questions up to there are answered.
    order = np.argsort(log_odds, kind="stable")
    gains = np.concatenate([[0.0], np.cumsum((overlap - nothing)[order])])
    level = np.concatenate([[-np.inf], np.asarray(log_odds)[order]])
    ends = np.append(level[1:] > level[:-1], True)               # equal ones are answered together or not at all
    chosen = np.flatnonzero(ends)[gains[ends].argmax()]
    above = level[chosen + 1] if chosen + 1 < len(level) else level[chosen] + 2.0       # halfway: rounding flips no answer
    threshold = float(level[chosen] + above) / 2 if chosen else float(level[1]) - 1.0
    given = np.asarray(log_odds) <= threshold
    return {"f1": float(np.where(given, overlap, nothing).mean()),
            "exact_match": float(np.where(given, exact, nothing).mean()), "threshold": threshold}
