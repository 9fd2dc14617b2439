"""What makes a small model leave the plateau: one change at a time to `tiny` with four layers and
updates of 16 sequences, at equal time.

    python bench/plateau.py --data FOLDER_OF_TEXT_FILES --minutes 6 --jobs 2 --threads 1
    python bench/plateau.py --data FOLDER_OF_TEXT_FILES --minutes 30 --jobs 1 --threads 2 \\
        --variants "2048 tokens, softmax" "2048 tokens, nystrom" "2048 tokens, local"

Each variant's speed is measured first, and its number of updates is what fits into the time, so that every learning
rate has come down at the end. Prints a table and draws held-out loss against the share of its time.
"""
import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from albert.attention import KINDS

BASE = ["num_hidden_layers=4", "batch_size=16", "micro_batch_size=16"]
VARIANTS = {
    "4 layers": [],
    "no convolution": ["conv_kernel_size=0"],
    "AdamW": ["optimizer=adamw"],
    "LAMB": ["optimizer=lamb", "learning_rate=0.01"],
    "pre-LN": ["norm_position=pre"],
    "Nyström, convolution 33": ["attention=nystrom", "num_landmarks=32", "conv_kernel_size=33"],
    "2 layers": ["num_hidden_layers=2"],
    "3 layers": ["num_hidden_layers=3"],
    "8 layers": ["num_hidden_layers=8"],
    "12 layers": ["num_hidden_layers=12"],
    "2 layers, hidden size 384": ["num_hidden_layers=2", "hidden_size=384", "num_attention_heads=6",
                                  "intermediate_size=1536"],
    "8 heads": ["num_attention_heads=8"],
    "AdamW's beta2 0.98": ["adam_beta2=0.98"],
    "no sentence objective": ["sentence_objective=none"],
}
# Long rows, where the kinds of attention differ; each with the same convolution of the values. Only run by name.
LONG = ["seq_len=2048", "batch_size=4", "micro_batch_size=4", "eval_sequences=32", "conv_kernel_size=9"]
LONG_VARIANTS = {f"2048 tokens, {kind}": [*LONG, f"attention={kind}"] for kind in KINDS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokenizer")
    parser.add_argument("--cache-dir", default="~/.cache/albert")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/plateau"))
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    known = VARIANTS | LONG_VARIANTS
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(known), metavar="NAME",
                        help=f"of {', '.join(known)} (default: all but those of 2048 tokens)")
    args = parser.parse_args()
    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(lambda name: measure(args, name, known[name]), args.variants))
    print(f"{args.minutes:g} minutes a run, {args.threads} thread(s) each, {args.jobs} at a time\n")
    print("| variant | parameters | tokens/s | tokens | MLM loss | MLM accuracy | sentence-order accuracy |")
    print("|---|---|---|---|---|---|---|")
    for name, records, parameters in rows:
        last = [record for record in records if record["kind"] == "eval"][-1]
        speed = sum(r["tokens_per_second"] for r in records if r["kind"] == "train") / sum(
            r["kind"] == "train" for r in records)
        print(f"| {name} | {parameters} | {speed:,.0f} | {last['tokens'] / 1e6:.2f} M | {last['mlm_loss']:.3f} "
              f"| {last['mlm_accuracy']:.3f} | {last.get('sentence_accuracy', float('nan')):.3f} |")
    draw(rows, args.runs_dir / "plateau.png")


def measure(args, name, settings):
    """(name, log records, parameters) of a variant trained for ``args.minutes``."""
    records, _ = train(args, name + " speed", [*settings, "max_steps=40", "warmup_steps=10", "log_every=10"])
    speeds = [record["tokens_per_second"] for record in records if record["kind"] == "train"][2:]
    tokens_a_step = records[0]["tokens"] / records[0]["step"]
    steps = int(args.minutes * 60 * sum(speeds) / len(speeds) / tokens_a_step)
    records, parameters = train(args, name, [*settings, f"max_steps={steps}", f"warmup_steps={steps // 10}",
                                             f"eval_every={max(steps // 10, 1)}", "save_every=1000000"])
    print(f"{name}: {records[-1]}", file=sys.stderr, flush=True)
    return name, records, parameters


def train(args, name, settings):
    folder = args.runs_dir / name.replace(" ", "-")
    command = [sys.executable, ROOT / "main-pretrain.py", "--model", "tiny", "--data", args.data, "--tqdm-off", "--cpu",
               "--cache-dir", args.cache_dir, "--runs-dir", folder]
    if args.tokenizer:
        command += ["--tokenizer", args.tokenizer]
    for setting in ["eval_sequences=256", "heldout_fraction=0.05", *BASE, *settings]:
        command += ["--set", setting]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": str(args.threads)})
    run = max(folder.iterdir())
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return records, done.stdout.split(" parameters")[0].split()[-1]


def draw(rows, path):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name, records, _ in rows:
        last = max(record["step"] for record in records)
        points = [(record["step"] / last, record["mlm_loss"]) for record in records if record["kind"] == "eval"]
        axis.plot(*zip(*points), marker="o", markersize=3, label=name)
    axis.set(xlabel="share of the time", ylabel="held-out MLM loss (nats)")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
