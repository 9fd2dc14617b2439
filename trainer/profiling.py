"""What an update spends its time on, and what a run would cost."""
import time

from torch.profiler import ProfilerActivity, profile

from trainer.machine import autocast, peak_memory

_WARM_UP = 2             # updates before those that are profiled


def profiled(updates, count, device, path):
    """Hand on ``updates``; write a trace of ``count`` of them to ``path`` (chrome://tracing, Perfetto), print the five
    costliest operations, and go on without profiling."""
    for _ in range(_WARM_UP):
        yield next(updates)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    try:
        with profile(activities=activities) as profiler:
            for _ in range(count):
                yield next(updates)
    finally:                                           # also where training ends before
        profiler.export_chrome_trace(str(path))
        where = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, where))
        total = sum(getattr(row, where) for row in rows) or 1
        print(f"{count} updates profiled, trace in {path}; the five costliest operations:")
        for row in rows[:5]:
            spent = getattr(row, where)
            print(f"  {spent / total:6.1%}  {spent / 1000 / count:9.2f} ms an update  {row.count:7,} calls  {row.key}",
                  flush=True)
    yield from updates


def estimate(trainer, tokens_an_epoch):
    """Lines that say what the run of ``trainer`` would take, from one micro-batch: forwards and backwards, twice."""
    task, hps, device = trainer.task, trainer.hps, trainer.world.device
    _, micro_batches = next(task.updates(task.position()))
    moved = {name: tensor.to(device) for name, tensor in micro_batches[0][1].items()}
    trainer.model.train()
    for _ in range(2):
        start = time.perf_counter()
        with autocast(trainer.dtype, device):
            loss = task.sums(trainer.model, moved)[f"{task.count_names[0]}_loss"]
        loss.backward()
        loss.item()
        seconds = time.perf_counter() - start
    trainer.model.zero_grad()
    parameters = sum(p.numel() for p in trainer.params)
    slots = 1 if hps.optimizer == "muon" else 2
    memory = peak_memory(device) + 4 * slots * parameters
    passes = -(-hps.batch_size // hps.micro_batch_size)
    update = seconds * -(-passes // trainer.world.size)
    tokens = task.counts(moved)["tokens"] * hps.batch_size / len(moved["input_ids"])
    return [f"parameters:      {parameters:,}",
            f"tokens an epoch: {tokens_an_epoch:,}; {tokens / tokens_an_epoch * hps.max_steps:,.1f} epochs in "
            f"{hps.max_steps:,} updates of {hps.batch_size:,} sequences",
            f"memory:          about {memory / 2 ** 30:.2f} GiB a process (peak of a micro-batch of "
            f"{len(moved['input_ids'])} sequences, and the optimiser's {4 * slots * parameters / 2 ** 30:.2f} GiB)",
            f"time:            about {_words(update * hps.max_steps)} ({seconds:.3g} s a micro-batch, {passes:,} an "
            f"update, processes: {trainer.world.size}; evaluation, saving and exchange not counted)"]


def _words(seconds):
    for name, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds > 2 * size:
            return f"{seconds / size:,.1f} {name}"
    return f"{seconds:.0f} seconds"
