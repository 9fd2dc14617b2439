"""Extractive question answering: the first and the last token of the answer."""
import numpy as np
import torch.nn.functional as F

from data.spans import BEST_SPANS, best_spans
from trainer import answers
from trainer.finetuning import Finetuning


class SpanAnswering(Finetuning):
    """Cross-entropy of the start and of the end, their mean; [CLS] stands for no answer in this window."""
    target = "start"

    def _losses(self, out, batch):
        losses = [F.cross_entropy(logits.float(), batch[name], reduction="sum")
                  for name, logits in (("start", out.start_logits), ("end", out.end_logits))]
        return {"label_loss": sum(losses) / 2}

    def _kept(self, out, batch):
        """Start logits (B, T) and end logits (B, T)."""
        return out.start_logits.float(), out.end_logits.float()

    def metrics(self, outputs):
        found = self._answers(outputs)
        golds = [[text for _, text in labels] for labels in self.data.dev.labels]
        return answers.evaluate([best[0][0] for best, _ in found], [self._odds(best, none) for best, none in found],
                                golds)

    def predictions(self, outputs, examples):
        """(id, answer, probability among the best spans and no answer); the answer is empty where the odds of
        there being none are above the threshold."""
        threshold = self.metrics(outputs).get("threshold", np.inf)
        rows = []
        for name, (best, none) in zip(examples.ids, self._answers(outputs)):
            scores = np.array([none, *(score for _, score in best)])[threshold == np.inf:]
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            empty = self._odds(best, none) > threshold
            rows.append((name, "" if empty else best[0][0], float(shares[0] if empty or len(shares) == len(best)
                                                                  else shares[1])))
        return rows

    @staticmethod
    def _odds(best, none):
        return none - best[0][1]

    def _answers(self, outputs):
        """For each question its best [(text, score)], of all windows, and the score of no answer: the least."""
        features, examples = self.dev, self.data.dev
        spans, nothing = [[] for _ in range(len(examples))], np.full(len(examples), np.inf)
        for index, starts, ends in outputs:
            for window, start, end in zip(index, starts, ends):
                row = slice(features.offsets[window], features.offsets[window + 1])
                size = row.stop - row.start
                first, last = (features.spans[name][row] for name in ("first", "last"))
                best, none = best_spans(start[:size], end[:size], first >= 0,
                                                features.spans["central"][row].astype(bool))
                question = features.targets["example"][window]
                nothing[question] = min(nothing[question], none)
                context = examples.inputs["context"][question]
                spans[question] += [(score, context[first[a]:last[b]].strip()) for score, a, b in best]
        found = []
        for candidates, none in zip(spans, nothing):
            texts = {}
            for score, text in sorted(candidates, key=lambda candidate: -candidate[0]):
                texts.setdefault(text, score)
            found.append((list(texts.items())[:BEST_SPANS] or [("", -1e9)], float(none)))
        return found
