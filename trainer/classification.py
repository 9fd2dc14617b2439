"""Classification, multi-label classification and regression of a text or a pair of texts; multiple choice."""
import json

import numpy as np
import torch
import torch.nn.functional as F

from data.race import LETTERS
from trainer import metrics
from trainer.finetuning import Finetuning, class_weights, in_order, weighted_cross_entropy


class Classification(Finetuning):
    """One class of several, by cross-entropy: also the choice among options, whose logits stand for the classes."""
    options = ("class_weights", "label_smoothing")

    def __init__(self, data, train, dev, hps, world):
        super().__init__(data, train, dev, hps, world)
        labels = train.targets["labels"]
        counts = np.bincount(labels, minlength=len(data.labels) or train.choices)
        self.weights = class_weights(hps, counts)
        self.majority = counts.argmax()
        self.average = "binary" if tuple(data.labels) == ("0", "1") else "macro"

    def counts(self, batch):
        counts = super().counts(batch)
        if "labels" in batch:
            counts["label"] = float(self.weights[batch["labels"]].sum())
        return counts

    def _losses(self, logits, batch):
        return {"label_loss": weighted_cross_entropy(logits, batch["labels"], self.weights, self.hps)}

    def _kept(self, logits, batch):
        """Probabilities (B, classes)."""
        return logits.float().softmax(-1),

    def metrics(self, outputs):
        probabilities, = in_order(outputs)
        return self._score(probabilities.argmax(-1))

    def _score(self, predicted):
        return metrics.by_group(
            lambda gold, guess: metrics.classification(self.data.metrics, gold, guess, self.average),
            self.data.dev.groups, self.dev.targets["labels"], predicted)

    def predictions(self, outputs, examples):
        """(id, prediction, probability) of each example."""
        probabilities, = in_order(outputs)
        names = self.data.labels or LETTERS
        return [(name, names[row.argmax()], float(row.max())) for name, row in zip(examples.ids, probabilities)]

    def summary(self, scores):
        constant = self._score(np.full(len(self.dev), self.majority))[self.data.metrics[0]]
        return f"{super().summary(scores)} (always the majority: {constant:.4f})"


class MultiLabel(Finetuning):
    """Any number of classes, each by its own logistic regression; predicted from a probability of 1/2 on."""
    options = ("class_weights",)

    def __init__(self, data, train, dev, hps, world):
        super().__init__(data, train, dev, hps, world)
        labels = train.targets["labels"]
        present = labels.sum(0)
        self.weights = class_weights(hps, np.stack([len(labels) - present, present], -1))

    def _weights(self, labels):
        """Of each label of each row, by whether it is there (B, classes)."""
        without, those_with = self.weights.to(labels.device, non_blocking=True).unbind(-1)
        return torch.where(labels > 0.5, those_with, without)

    def counts(self, batch):
        return {**super().counts(batch), "label": float(self._weights(batch["labels"]).sum())}

    def _losses(self, logits, batch):
        loss = F.binary_cross_entropy_with_logits(logits.float(), batch["labels"], self._weights(batch["labels"]),
                                                  reduction="sum")
        return {"label_loss": loss}

    def _kept(self, logits, batch):
        """Probabilities (B, classes)."""
        return logits.float().sigmoid(),

    def metrics(self, outputs):
        probabilities, = in_order(outputs)
        return metrics.classification(self.data.metrics, self.dev.targets["labels"] > 0.5, probabilities >= 0.5, "micro")

    def predictions(self, outputs, examples):
        """(id, labels as a JSON list, probability of the least certain of all labels) of each example."""
        probabilities, = in_order(outputs)
        return [(name, json.dumps([label for label, p in zip(self.data.labels, row) if p >= 0.5], ensure_ascii=False),
                 float(np.maximum(row, 1 - row).min())) for name, row in zip(examples.ids, probabilities)]


class Regression(Finetuning):
    """A number, by squared error."""

    def _losses(self, values, batch):
        return {"label_loss": F.mse_loss(values.float().squeeze(-1), batch["labels"], reduction="sum")}

    def _kept(self, values, batch):
        return values.float().squeeze(-1),

    def metrics(self, outputs):
        values, = in_order(outputs)
        return metrics.regression(self.data.metrics, self.dev.targets["labels"], values)

    def predictions(self, outputs, examples):
        """(id, number, "") of each example."""
        values, = in_order(outputs)
        return [(name, float(value), "") for name, value in zip(examples.ids, values)]
