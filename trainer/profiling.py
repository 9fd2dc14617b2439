"""What an update spends its time on, and what a run would cost."""
import time

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from trainer.machine import autocast, moved, peak_memory

_WARM_UP = 2             # updates before those that are profiled


def profiled(updates, count, device, path):
    """Hand on ``updates``; write a trace of ``count`` of them to ``path`` (chrome://tracing, Perfetto; None: nowhere),
    print the five costliest operations, and go on without profiling."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    done = 0
    try:
        for _ in range(_WARM_UP):
            yield next(updates)
        with profile(activities=activities) as profiler:
            for done in range(1, count + 1):
                yield next(updates)
    finally:                                           # also where training ends before
        if done:
            _report(profiler, done, device, path)
        else:
            print(f"nothing profiled: training ended within its first {_WARM_UP} updates")
    yield from updates


def _report(profiler, count, device, path):
    if path is not None:
        profiler.export_chrome_trace(str(path))
    rows, where = profiler.key_averages(), "self_cpu_time_total"
    if device.type == "cuda":              # its kernels: operators have their kernels' time once more, and so have annotations
        rows = [row for row in rows if row.device_type == DeviceType.CUDA and not row.is_user_annotation]
        where = "self_device_time_total"
    rows = sorted(rows, key=lambda row: -getattr(row, where))
    total = sum(getattr(row, where) for row in rows) or 1
    print(f"{count} updates profiled{f', trace in {path}' if path else ''}; the five costliest operations, with evaluations "
          "between them:")
    for row in rows[:5]:
        spent = getattr(row, where)
        print(f"  {spent / total:6.1%}  {spent / 1000 / count:9.2f} ms and {row.count / count:6,.0f} calls an update  "
              f"{row.key}", flush=True)


def estimate(trainer, lengths):
    """Lines that say what the run of ``trainer`` would take, from one micro-batch: forwards and backwards, twice.
    ``lengths`` are the tokens of the sequences of an epoch. A process without a micro-batch says nothing."""
    task, hps, device = trainer.task, trainer.hps, trainer.world.device
    _, micro_batches = next(task.updates(task.position()))
    if not micro_batches:
        return []
    batch = micro_batches[0][1]
    inputs = moved(batch, device)
    trainer.model.train()
    for _ in range(2):
        start = time.perf_counter()
        with autocast(trainer.dtype, device):
            loss = task.sums(trainer.model, inputs)[f"{task.count_names[0]}_loss"]
        loss.backward()
        loss.item()
        seconds = time.perf_counter() - start
    trainer.model.zero_grad()
    parameters = sum(p.numel() for p in trainer.params)
    state = sum(4 * p.numel() * (1 if isinstance(optimizer, torch.optim.Muon) else 2)
                for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"])
    memory = peak_memory(device) + state
    passes = -(-hps.batch_size // hps.micro_batch_size)
    rows = len(batch["input_ids"])
    share = min(lengths.mean() * rows / task.counts(batch)["tokens"], 1)     # this micro-batch has the longest rows
    update = seconds * share * -(-passes // trainer.world.size)
    return [f"parameters:      {parameters:,}",
            f"tokens an epoch: {lengths.sum():,}; {hps.batch_size * hps.max_steps / len(lengths):,.1f} epochs in "
            f"{hps.max_steps:,} updates of {hps.batch_size:,} sequences",
            f"memory:          about {memory / 2 ** 30:.2f} GiB a process (peak of a micro-batch of "
            f"{rows} sequences, and the optimiser's {state / 2 ** 30:.2f} GiB)",
            f"time:            about {_words(update * hps.max_steps)} ({seconds:.3g} s a micro-batch, {passes:,} an "
            f"update, processes: {trainer.world.size}; evaluation, saving and exchange not counted)"]


def _words(seconds):
    for name, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds > 2 * size:
            return f"{seconds / size:,.1f} {name}"
    return f"{seconds:.0f} s"
