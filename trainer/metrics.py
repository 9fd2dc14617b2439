"""Scores from 0 to 1 (correlations from -1) of predictions, by the names in metrics.json."""
import warnings

import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics


def classification(names, gold, predicted, average):
    """Classes (N,), or multi-hot rows (N, L), to {name: score}. ``average`` is that of `sklearn.metrics.f1_score`."""
    known = {"accuracy": lambda: sklearn_metrics.accuracy_score(gold, predicted),
             "f1": lambda: sklearn_metrics.f1_score(gold, predicted, average=average, zero_division=0),
             "matthews": lambda: sklearn_metrics.matthews_corrcoef(gold, predicted)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)                  # of predictions that are all of one class
        return {name: float(known[name]()) for name in names}


def regression(names, gold, predicted):
    """Numbers (N,) to {"pearson", "spearman"}; 0 where either side is constant and there is no correlation."""
    if len(gold) < 2:
        return dict.fromkeys(names, 0.0)
    known = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return {name: float(np.nan_to_num(known[name](gold, predicted)[0])) for name in names}


_BIOES = {"U-": "S-", "L-": "E-"}                           # of BILOU


def tagging(names, gold, predicted):
    """Tags, a list for each sentence, to entity-level scores as conlleval's, and "accuracy" of the words."""
    from seqeval import metrics as seqeval_metrics

    known = {"f1": seqeval_metrics.f1_score, "precision": seqeval_metrics.precision_score,
             "recall": seqeval_metrics.recall_score}
    gold, predicted = ([[_BIOES.get(tag[:2], tag[:2]) + tag[2:] for tag in sentence] for sentence in part]
                       for part in (gold, predicted))
    scores = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)        # of tags that are no entities, such as parts of speech
        for name in names:
            scores[name] = float(seqeval_metrics.accuracy_score(gold, predicted) if name == "accuracy" else
                                 known[name](gold, predicted, zero_division=0))
    return scores


def by_group(score, groups, gold, predicted):
    """``score(gold, predicted)`` of all, and where there are groups of each: {"accuracy", "matched_accuracy", ...}."""
    scores = score(gold, predicted)
    for group in sorted(set(groups or ())):
        inside = np.array([name == group for name in groups])
        scores |= {f"{group}_{name}": value for name, value in score(gold[inside], predicted[inside]).items()}
    return scores
