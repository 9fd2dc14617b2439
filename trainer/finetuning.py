"""Fine-tuning as the loop sees it: updates from features, held-out predictions, and their scores."""
import numpy as np
import torch
import torch.nn.functional as F

from data import draws
from data.examples import NO_LABEL
from trainer.errors import RunError
from trainer.micro_batches import micro_batches, tensors


def plan_steps(hps, examples, keys=()):
    """Fill in the numbers of updates that depend on how many examples there are. ``max_epochs`` caps ``max_steps``, unless
    the latter alone is among the ``keys`` that a user has set."""
    epoch = -(-examples // hps.batch_size)
    if "max_epochs" in keys or "max_steps" not in keys:
        most = hps.max_epochs * epoch
        hps.max_steps = min(hps.max_steps or most, most)
    if hps.warmup_steps is None:
        hps.warmup_steps = int(hps.warmup_share * hps.max_steps)
    hps.eval_every = hps.eval_every or max(epoch // 4, 1)
    hps.save_every = hps.save_every or epoch


class Finetuning:
    """What the kinds of task have in common; each adds ``_losses`` (sums over a micro-batch, of the model's output), ``_kept``
    (the tensors that are left of it), ``metrics`` and ``predictions`` (of these, as arrays after the examples' numbers).

    Each update is ``batch_size`` examples of an epoch's order, the last of an epoch what is left, sorted by length
    and cut into globally numbered micro-batches of which process r of n takes every n-th.
    """
    count_names = ("label", "tokens")
    sum_names = ("label_loss",)
    target = "labels"                  # what the losses need of a batch
    read_share = 0.0                   # share of the tokens whose last hidden states the head reads; of one a row: 0
    options = ()                       # of class_weights and label_smoothing, those that the loss knows

    def __init__(self, data, train, dev, hps, world):
        """data: the `TaskData`; train, dev: its `Features`."""
        self.data, self.train, self.dev, self.hps, self.world = data, train, dev, hps, world

    @classmethod
    def check_options(cls, kind, hps):
        """Raise RunError for a setting that the loss of this kind of task does not know."""
        for key, without in (("class_weights", "none"), ("label_smoothing", 0.0)):
            if getattr(hps, key) != without and key not in cls.options:
                raise RunError(f"{key}={getattr(hps, key)}: the loss of a {kind} task has none; leave it out")

    def position(self):
        return {"epoch": 0, "sample": 0}

    def order(self, epoch):
        """The examples of an epoch in a random order, in which batches hold examples of about one length:
        of ``bucket_batches`` batches at a time the examples are sorted by length, then the batches shuffled."""
        examples = draws.permutation(draws.key(self.hps.seed, "order", epoch), len(self.train))
        if self.hps.bucket_batches < 2:
            return examples
        lengths, size, batches = self.train.lengths, self.hps.batch_size, []
        for start in range(0, len(examples), size * self.hps.bucket_batches):
            bucket = examples[start:start + size * self.hps.bucket_batches]
            bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
            batches += [bucket[part:part + size] for part in range(0, len(bucket), size)]
        whole = [batch for batch in batches if len(batch) == size]
        rest = [batch for batch in batches if len(batch) < size]
        numbers = draws.permutation(draws.key(self.hps.seed, "batches", epoch), len(whole))
        return np.concatenate([*(whole[number] for number in numbers), *rest])

    def updates(self, position):
        """Endless ``(position afterwards, micro-batches)``; a micro-batch is (global number, tensors)."""
        epoch, sample = position["epoch"], position["sample"]
        while True:
            order = self.order(epoch)
            while sample < len(order):
                examples = order[sample:sample + self.hps.batch_size]
                sample += len(examples)
                yield {"epoch": epoch, "sample": sample}, self.micro_batches(self.train, examples)
            epoch, sample = epoch + 1, 0

    def evaluation(self, features=None):
        """This process's share of the micro-batches of ``features``, the held-out ones."""
        features = self.dev if features is None else features
        return [batch for _, batch in self.micro_batches(features, np.arange(len(features)))]

    def micro_batches(self, features, examples):
        return tensors(micro_batches([(examples, features.lengths[examples], features.batch)], self.hps.micro_batch_size,
                                     self.world))

    def counts(self, batch):
        return {"label": len(batch["index"]), "tokens": int(batch["attention_mask"].sum())}

    def sums(self, model, batch):
        return self._losses(forward(model, batch), batch)

    def predict(self, model, batch):
        """The sums, none where the labels are not known, and a tuple of arrays."""
        out = forward(model, batch)
        sums = self._losses(out, batch) if self.target in batch else {}
        return sums, tuple(tensor.cpu().numpy() for tensor in (batch["index"], *self._kept(out, batch)))

    def goodness(self, scores):
        return scores[self.data.metrics[0]]

    def files(self, outputs):
        """{name: content} of further JSON files that the held-out predictions leave in the run folder."""
        return {}

    def baselines(self):
        return {}

    def summary(self, scores):
        names = [name for name in scores if name.endswith(self.data.metrics)]
        return "held-out " + ", ".join(f"{name.replace('_', ' ')} {scores[name]:.4f}" for name in names)


def class_weights(hps, counts):
    """float32, of the shape of ``counts``, the examples of each class (last axis): all 1, or with
    ``class_weights=balanced`` N / (classes · its examples), as scikit-learn weighs them. On the CPU, where ``counts``
    of a micro-batch are taken."""
    counts = np.asarray(counts, float)
    weights = counts.sum(-1, keepdims=True) / (counts.shape[-1] * np.maximum(counts, 1))
    return torch.tensor(weights if hps.class_weights == "balanced" else np.ones_like(counts), dtype=torch.float32)


def weighted_cross_entropy(logits, labels, weights, hps):
    """The sum over rows of logits (N, classes), each weighed by the weight of its own label (N), those with `NO_LABEL` by
    nothing: PyTorch's weights would weigh the smoothing of each class too, and draw every row to the rarest."""
    losses = F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=NO_LABEL,
                             label_smoothing=hps.label_smoothing)
    return (losses * weights.to(losses.device, non_blocking=True)[labels.clamp(min=0)]).sum()


def forward(model, batch):
    """The model's output for a micro-batch."""
    return model(batch["input_ids"], batch["token_type_ids"], batch.get("attention_mask"))


def in_order(outputs):
    """The arrays that ``predict`` put out for each batch, joined and in the order of the examples."""
    order = np.argsort(np.concatenate([index for index, *_ in outputs]))
    return [np.concatenate(column)[order] for column in list(zip(*outputs))[1:]]
