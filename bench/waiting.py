"""Training alone and beside other work: how long the threads of OpenMP turn in a loop while they wait for each other.

    python bench/waiting.py                                   # tiny, on Python's documentation
    python bench/waiting.py --model base --updates 4 --set batch_size=8 --set micro_batch_size=8

A row for each number of turns (GOMP_SPINCOUNT; 300,000 is GNU's default, `albert/openmp.py` has 1,000) and a column for each
number of busy processes beside it: tokens a second of main-pretrain.py as it prints them, the median of the rounds, in which
all take turns.
"""
import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--data", default="pydocs")
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--turns", type=int, nargs="+", default=[0, 100, 1000, 10_000, 300_000])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of main-pretrain.py")
    args = parser.parse_args()
    rates = {(turns, busy): [] for busy in args.busy for turns in args.turns}
    for _ in range(args.rounds):
        for (turns, busy), found in rates.items():
            with busy_processes(busy):
                found.append(rate(args, turns))
    print("| turns | " + " | ".join(f"beside {busy} busy" if busy else "alone" for busy in args.busy) + " |")
    print("|---" * (len(args.busy) + 1) + "|")
    for turns in args.turns:
        print(f"| {turns:,} | " + " | ".join(f"{statistics.median(rates[turns, busy]):,.0f}" for busy in args.busy) + " |")


@contextlib.contextmanager
def busy_processes(number):
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def rate(args, turns):
    """Tokens a second of the updates after the first quarter."""
    settings = [f"max_steps={args.updates}", "warmup_steps=1", f"eval_every={args.updates}", "eval_sequences=8",
                f"log_every={max(args.updates // 4, 1)}", *args.set]
    done = subprocess.run([sys.executable, ROOT / "main-pretrain.py", "--model", args.model, "--data", args.data, "--no-save",
                           "--cpu", "--tqdm-off", *(part for setting in settings for part in ("--set", setting))],
                          env=os.environ | {"GOMP_SPINCOUNT": str(turns)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return statistics.median(float(found.replace(",", "")) for found in re.findall(r"([\d,]+) tokens/s", done.stdout)[1:])


if __name__ == "__main__":
    main()
