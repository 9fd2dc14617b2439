"""Tagging of words, scored by the entities that the tags spell."""
import numpy as np

from data.examples import NO_LABEL
from trainer import metrics
from trainer.finetuning import Finetuning, class_weights, weighted_cross_entropy


class Tagging(Finetuning):
    """The tag of each word, by cross-entropy over its first sub-word. A word that was cut off is predicted O (where
    there is no O, the first tag)."""
    target = "tags"
    read_share = 1.0
    options = ("class_weights", "label_smoothing")

    def __init__(self, data, train, dev, hps, world):
        super().__init__(data, train, dev, hps, world)
        tags = train.tokens["tags"]
        self.weights = class_weights(hps, np.bincount(tags[tags != NO_LABEL], minlength=len(data.labels)))

    def counts(self, batch):
        tags = batch["tags"][batch["tags"] != NO_LABEL]
        return {**super().counts(batch), "label": float(self.weights[tags].sum())}

    def _losses(self, logits, batch):
        return {"label_loss": weighted_cross_entropy(logits.flatten(0, 1), batch["tags"].flatten(), self.weights, self.hps)}

    def _kept(self, logits, batch):
        """Words (B, T), tags (B, T) and their probabilities (B, T)."""
        probability, tag = logits.float().softmax(-1).max(-1)
        return batch["words"], tag, probability

    def metrics(self, outputs):
        names = self.data.labels
        gold = [[names[tag] for tag in sentence] for sentence in self.data.dev.labels]
        return metrics.tagging(self.data.metrics, gold, [tags for tags, _ in self._tags(outputs, self.data.dev)])

    def predictions(self, outputs, examples):
        """(id, tags parted by blanks, probability of the least certain) of each sentence."""
        return [(name, " ".join(tags), probability)
                for name, (tags, probability) in zip(examples.ids, self._tags(outputs, examples))]

    def _tags(self, outputs, examples):
        """[(tags, least probability)] of each sentence, in order."""
        names = self.data.labels
        default = "O" if "O" in names else names[0]
        result = [None] * len(examples)
        for index, words, tags, probabilities in outputs:
            for number, word, tag, probability in zip(index, words, tags, probabilities):
                sentence = [default] * len(examples.inputs["words"][number])
                for position in np.flatnonzero(word >= 0):
                    sentence[word[position]] = names[tag[position]]
                result[number] = sentence, float(probability[word >= 0].min(initial=1.0))
        return result
