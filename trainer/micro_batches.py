"""Samples to the micro-batches of a process."""
import numpy as np
import torch


def micro_batches(ranges, size, world):
    """Every ``world.size``-th of the globally numbered micro-batches of ``size``: [(number, {name: array})].

    ranges: [(samples (n,), their lengths (n,), function from samples to arrays by name)], each sorted by length, the
    longest first, and cut for itself.
    """
    parts = []
    for samples, lengths, batch in ranges:
        samples = samples[np.argsort(-lengths, kind="stable")]
        parts += [(batch, samples[start:start + size]) for start in range(0, len(samples), size)]
    return [(number, batch(part)) for number, (batch, part) in list(enumerate(parts))[world.rank::world.size]]


def tensors(batches):
    """The same micro-batches of tensors, which share the arrays' memory."""
    return [(number, {name: torch.from_numpy(array) for name, array in batch.items()}) for number, batch in batches]
