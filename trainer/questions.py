"""Extractive question answering: the first and the last token of the answer."""
import numpy as np
import torch
import torch.nn.functional as F

from data.spans import BEST_SPANS, best_answers
from trainer import answers
from trainer.finetuning import Finetuning


class SpanAnswering(Finetuning):
    """Cross-entropy of the start and of the end, their mean; [CLS] stands for no answer in this window."""
    target = "start"
    read_share = 1.0

    def _losses(self, out, batch):
        mask = batch.get("attention_mask")                    # what fills a row up is no candidate
        losses = [F.cross_entropy(logits.float() if mask is None else logits.float().masked_fill(~mask, -torch.inf),
                                  batch[name], reduction="sum")
                  for name, logits in (("start", out.start_logits), ("end", out.end_logits))]
        return {"label_loss": sum(losses) / 2}

    def _kept(self, out, batch):
        """Start logits (B, T) and end logits (B, T)."""
        return out.start_logits.float(), out.end_logits.float()

    def metrics(self, outputs):
        return self._evaluate(self._answers(outputs))

    def predictions(self, outputs, examples):
        """(id, answer, probability among the candidates); the answer is empty where the log-odds of there being none are
        above the threshold."""
        return [(name, answer, next(share for text, _, share in candidates if text == answer))
                for name, (answer, candidates) in zip(examples.ids, self._ranked(outputs))]

    def files(self, outputs):
        """The candidates of every question, best first."""
        return {"nbest.json": {name: [dict(zip(("answer", "score", "probability"), candidate)) for candidate in candidates]
                               for name, (_, candidates) in zip(self.data.dev.ids, self._ranked(outputs))}}

    def _ranked(self, outputs):
        """For each question its answer, and its candidates (answer, score, probability among them), best first: the best
        spans and, where held-out questions may have no answer, the empty one."""
        found, ranked = self._answers(outputs), []
        threshold = self._evaluate(found).get("threshold", np.inf)
        for best, none in found:
            candidates = sorted([*best, ("", none)] if threshold < np.inf else best, key=lambda candidate: -candidate[1])
            shares = np.exp(np.array([score for _, score in candidates]) - candidates[0][1])
            shares /= shares.sum()
            ranked.append(("" if self._log_odds(best, none) > threshold else best[0][0],
                           [(*candidate, float(share)) for candidate, share in zip(candidates, shares)]))
        return ranked

    def _evaluate(self, found):
        golds = [[text for _, text in labels] for labels in self.data.dev.labels]
        return answers.evaluate([best[0][0] for best, _ in found], [self._log_odds(best, none) for best, none in found],
                                golds)

    @staticmethod
    def _log_odds(best, none):
        return none - best[0][1]

    def _answers(self, outputs):
        """For each question its best [(text, score)], of all windows, and the score of no answer: the least."""
        features, contexts = self.dev, self.data.dev.inputs["context"]
        windows, found = [[] for _ in contexts], []
        for index, starts, ends in outputs:
            for window, start, end in zip(index, starts, ends):
                row = slice(features.offsets[window], features.offsets[window + 1])
                windows[features.targets["example"][window]].append(
                    (start, end, *(features.spans[name][row] for name in ("first", "last", "central"))))
        for context, parts in zip(contexts, windows):
            spans, none = best_answers(context, parts)
            texts = {}
            for score, begin, end in spans:
                texts.setdefault(context[begin:end], score)
            found.append((list(texts.items())[:BEST_SPANS] or [("", -1e9)], none))
        return found
