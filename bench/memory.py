"""What activation checkpointing saves, how many bytes an update exchanges, and what a checkpoint costs.

    python bench/memory.py activations --model xxlarge --seq-len 512 --batch 1
    python bench/memory.py exchange --model base bert-base
    python bench/memory.py saving --model base
"""
import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch

from data.tokenizer_training import train_tokenizer
from hps import HPS
from trainer import checkpoints
from trainer.initial import new_model
from trainer.machine import autocast, autocast_dtype, keep_freed_memory, peak_memory
from trainer.optimizers import build_optimizers

CPU = torch.device("cpu")


def settings(model, **changes):
    return SimpleNamespace(**{**vars(HPS["pretrain", model]), **changes})


def resident():
    """Bytes that the process has at present."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def one_pass(model, seq_len, batch, attention, checkpointing, precision):
    """Peak memory (bytes) and seconds of a forward and backward pass, and what weights and gradients took before."""
    hps = settings(model, attention=attention, conv_kernel_size=None, max_position_embeddings=seq_len)
    built = new_model(hps).train()
    for p in built.parameters():
        p.grad = torch.zeros_like(p)
    built.albert.encoder.activation_checkpointing = checkpointing
    ids, masked = torch.randint(5, 1000, (batch, seq_len)), torch.arange(0, batch * seq_len, 7)
    still, start = resident(), time.perf_counter()
    with autocast(autocast_dtype(precision, CPU), CPU):
        loss = built(ids, None, None, masked).mlm_logits.float().logsumexp(-1).mean()
    loss.backward()
    print(json.dumps({"still": still, "peak": peak_memory(CPU), "seconds": time.perf_counter() - start}))


def activations(args):
    print(f"{args.model[0]}, {args.batch} x {args.seq_len} tokens, {args.attention}, {args.precision}, CPU\n")
    print("| activation checkpointing | peak memory | of it beyond program, weights and gradients | seconds a pass |")
    print("|---|---|---|---|")
    for flag in (False, True):
        call = [sys.executable, __file__, "pass", *sys.argv[2:], *["--checkpointing"] * flag]
        got = json.loads(subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
        peak, still = got["peak"] / 2 ** 30, got["still"] / 2 ** 30
        print(f"| {'on' if flag else 'off'} | {peak:.2f} GiB | {peak - still:.2f} GiB | {got['seconds']:.1f} |", flush=True)


def exchange(args):
    print("| model | numbers in the gradient | bytes an update |\n|---|---|---|")
    for name in args.model:
        with torch.device("meta"):
            model = new_model(settings(name, attention=args.attention, conv_kernel_size=None))
        numbers = sum(p.numel() for p in model.parameters())
        print(f"| {name} | {numbers:,} | {4 * numbers:,} |")


def saving(args):
    keep_freed_memory()
    words = [f"{a}{b}{c}" for a in "abcdefghijklm" for b in "nopqrstuvwxyz" for c in "aeiou"]
    tokenizer = train_tokenizer([" ".join(words)], "wordpiece", 500, 0, progress=False)
    for name in args.model:
        hps = settings(name)
        model = new_model(hps)
        optimizers = build_optimizers(model, hps)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        for optimizer in optimizers:
            optimizer.step()
        state = {"tokens": 0, "position": {}, "window": {}, "best": {"step": None, "score": 0.0}, "scaler": {}}
        with tempfile.TemporaryDirectory(dir=".") as folder:
            seconds = []
            for step in range(args.rounds):
                start = time.perf_counter()
                path = checkpoints.save(Path(folder), step, model, tokenizer, optimizers, state)
                seconds.append(time.perf_counter() - start)
            size = sum(file.stat().st_size for file in path.iterdir())
        worst = max(seconds)
        print(f"{name}: {size / 1e6:,.0f} MB in {sorted(seconds)[len(seconds) // 2]:.2f} s (worst {worst:.2f} s); at "
              f"save_every={hps.save_every} that is 5 % of the time if an update takes {worst * 20 / hps.save_every:.4f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("activations", "exchange", "saving", "pass"))
    parser.add_argument("--model", nargs="+", default=["base"])
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--attention", default="softmax")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "pass":
        one_pass(args.model[0], args.seq_len, args.batch, args.attention, args.checkpointing, args.precision)
    else:
        {"activations": activations, "exchange": exchange, "saving": saving}[args.what](args)


if __name__ == "__main__":
    main()
