"""Time and peak memory of every kind of attention against the length, beside the package nystrom-attention.

    python bench/attention.py --lengths 256 512 1024 2048 4096 8192 16384 --dtypes fp32 bf16

The whole module, with its projections, and the convolution where the kind brings one along: 12 heads of 64, 64 landmarks,
batch · length = 2048 tokens and then one row. `softmax` is PyTorch's fused kernel. Times are medians of rounds in which
all modules take turns. Memory is what one call adds at its peak to what weights and input take: on a CPU the resident
memory of a process of its own (Linux), on a GPU the allocator's peak. Prints Markdown tables and draws them.
"""
import argparse
import multiprocessing
import statistics
import sys
import time
from pathlib import Path

import torch
from einops import rearrange
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from albert import AlbertConfig
from albert.attention import KINDS
from albert.encoder import AttentionBlock
from albert.pretrained import initialize
from trainer import machine

HEADS, HEAD_DIM, LANDMARKS, TOKENS = 12, 64, 64, 2048
PEER = "nystrom-attention"
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
DIRECTIONS = ("forward", "forward and backward")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256 << power for power in range(7)])
    parser.add_argument("--kinds", nargs="+", default=[*KINDS, PEER], choices=[*KINDS, PEER])
    parser.add_argument("--dtypes", nargs="+", default=["fp32"], choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--picture", type=Path, help="file to draw to, one for each dtype")
    args = parser.parse_args()
    # memory first: a process must be forked before this one has computed anything
    peaks = {case: peak(*case, args.device) for case in cases(args)}
    if args.device == "cpu":
        machine.keep_freed_memory()
    times = {}
    for dtype in args.dtypes:
        for length in args.lengths:
            for direction in DIRECTIONS:
                times |= measure(args, dtype, length, direction)
    print(f"{args.device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}; median of {args.rounds} rounds")
    for dtype in args.dtypes:
        for direction in DIRECTIONS:
            for words, values, digits in (("milliseconds", times, 1), ("peak MB", peaks, 0)):
                print(f"\n{dtype}, {direction}, {words}\n\n| | " + " | ".join(map(str, args.lengths)) + " |")
                print("|---" * (len(args.lengths) + 1) + "|")
                for kind in args.kinds:
                    print(f"| {kind} | " + " | ".join(f"{values[dtype, length, direction, kind]:,.{digits}f}"
                                                      for length in args.lengths) + " |")
        if args.picture:
            draw(args, dtype, times, peaks)


def cases(args):
    return [(dtype, length, direction, kind) for dtype in args.dtypes for length in args.lengths
            for direction in DIRECTIONS for kind in args.kinds]


class Module(nn.Module):
    """A kind of attention between its projections: (B, T, H) to the same shape."""

    def __init__(self, kind):
        super().__init__()
        config = AlbertConfig(attention=kind, num_attention_heads=HEADS, hidden_size=HEADS * HEAD_DIM,
                              num_landmarks=LANDMARKS, max_position_embeddings=16384)
        self.block = AttentionBlock(config)
        initialize(self.block, config)

    def forward(self, hidden):
        block = self.block
        query, key, value = (rearrange(project(hidden), "b t (h d) -> b h t d", h=HEADS)
                             for project in (block.query, block.key, block.value))
        return block.output(rearrange(block.attend(query, key, value, None), "b h t d -> b t (h d)"))


def build(kind, device):
    if kind != PEER:
        return Module(kind).to(device)
    from nystrom_attention import NystromAttention
    return NystromAttention(HEADS * HEAD_DIM, HEAD_DIM, HEADS, LANDMARKS).to(device)


def example(length, device):
    torch.manual_seed(0)
    return torch.randn(max(TOKENS // length, 1), length, HEADS * HEAD_DIM, device=device)


def call(module, hidden, dtype, direction):
    backward = direction != "forward"
    with torch.set_grad_enabled(backward), machine.autocast(DTYPES[dtype], hidden.device):
        output = module(hidden)
    if backward:
        output.backward(torch.ones_like(output))


def measure(args, dtype, length, direction):
    """Median milliseconds of each kind, by case."""
    modules = {kind: build(kind, args.device) for kind in args.kinds}
    hidden = example(length, args.device).requires_grad_(direction != "forward")
    seconds = {kind: [] for kind in modules}
    for number in range(args.rounds + 1):
        for kind, module in modules.items():
            module.zero_grad(set_to_none=True)
            start = clock(args.device)
            call(module, hidden, dtype, direction)
            if number:                                              # the first round warms up
                seconds[kind].append(clock(args.device) - start)
    return {(dtype, length, direction, kind): 1000 * statistics.median(values) for kind, values in seconds.items()}


def clock(device):
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak(dtype, length, direction, kind, device):
    """MB that a call adds at its peak."""
    if device != "cpu":
        return added_on_gpu(dtype, length, direction, kind, device)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(added_on_cpu(dtype, length, direction, kind)))
    child.start()
    sender.close()                                                  # so that a child that dies is an EOFError here
    added = receiver.recv()
    child.join()
    return added


def added_on_cpu(dtype, length, direction, kind):
    module, hidden = build(kind, "cpu"), example(length, "cpu").requires_grad_(direction != "forward")
    call(module, example(128, "cpu")[:1], dtype, direction)         # what libraries set up once is not counted
    module.zero_grad(set_to_none=True)
    Path("/proc/self/clear_refs").write_text("5")                   # the peak starts again from here
    before = resident("VmRSS")
    call(module, hidden, dtype, direction)
    return (resident("VmHWM") - before) / 1024


def resident(field):
    """Kibibytes of this process, from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def added_on_gpu(dtype, length, direction, kind, device):
    module, hidden = build(kind, device), example(length, device).requires_grad_(direction != "forward")
    call(module, example(128, device)[:1], dtype, direction)
    module.zero_grad(set_to_none=True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(module, hidden, dtype, direction)
    return (torch.cuda.max_memory_allocated() - before) / 2 ** 20


def draw(args, dtype, times, peaks):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), sharex=True, layout="constrained")
    for row, (words, values) in zip(axes, (("milliseconds", times), ("peak memory (MB)", peaks))):
        for axis, direction in zip(row, DIRECTIONS):
            for kind in args.kinds:
                axis.loglog(args.lengths, [values[dtype, length, direction, kind] for length in args.lengths],
                            marker="o", markersize=3, label=kind, linestyle="--" if kind == PEER else "-")
            axis.set(title=f"{direction}, {dtype}", ylabel=words, xlabel="length (tokens)")
            axis.set_xticks(args.lengths, map(str, args.lengths), rotation=45)
            axis.set_xticks([], minor=True)
            axis.grid(alpha=0.3)
    axes[0, 0].legend()
    path = args.picture if len(args.dtypes) == 1 else args.picture.with_stem(f"{args.picture.stem}-{dtype}")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
