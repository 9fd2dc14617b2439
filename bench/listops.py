"""ListOps of the Long Range Arena (Tay et al. 2021) by one kind of attention for a number of minutes, through
main-finetune.py: accuracy beside the majority class.

    python bench/listops.py --attention softmax --minutes 30 --min-length 128 --max-length 512      # a CPU's size
    python bench/listops.py --attention nystrom --minutes 30 --min-length 500 --max-length 2000     # the Arena's

An example is a nested expression of MAX, MIN, MED (rounded down) and SM (sum modulo 10) of up to 10 arguments, 10 deep,
with a digit as its value. The Arena's definition, by a generator of our own, a pure function of the seed: the same lengths
in tokens (operators, digits and closing brackets), probabilities and sizes (96,000 and 2,000 examples) by default; but the
2,000 are its validation examples, a test set there is none, and the model is smaller (MODEL below). The speed is measured
first, so that the learning rate has come down when the time is up.
"""
import argparse
import collections
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from albert import Albert, AlbertConfig
from data import draws
from data.tokenizer import BERT_SPECIALS, bert_tokenizer, save_tokenizer

OPERATORS = {"max": max, "min": min, "med": lambda values: (sorted(values)[(len(values) - 1) // 2]
                                                            + sorted(values)[len(values) // 2]) // 2,
             "sm": lambda values: sum(values) % 10}
END = "end"                                    # the closing bracket; the opening one is part of an operator
MAX_DEPTH, MAX_ARGUMENTS, OPERATOR_SHARE = 10, 10, 0.25
MODEL = dict(embedding_size=128, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256,
             share="none", norm_position="pre", classifier_dropout_prob=0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attention", default="nystrom")
    parser.add_argument("--minutes", type=float, default=30, help="of training")
    parser.add_argument("--min-length", type=int, default=128)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--examples", type=int, default=96_000)
    parser.add_argument("--dev-examples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--architecture", action="append", default=[], metavar="KEY=NUMBER",
                        help="of AlbertConfig, such as num_landmarks=32")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the fine-tuning")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        train = write(folder / "train.csv", "train", args.examples, args)
        labels = write(folder / "dev.csv", "dev", args.dev_examples, args)
        parameters = new_model(folder / "model", args)
        majority = collections.Counter(train).most_common(1)[0][0]
        steps = max(int(60 * args.minutes * updates_per_second(folder, args)), 20)
        run = finetune(folder, "run", args, [f"max_steps={steps}", f"eval_every={max(steps // 10, 1)}"])
        seconds = sum(record["seconds"] for record in run["train"])
        print("| attention | length | parameters | updates | minutes of training | accuracy | majority class |")
        print("|---|---|---|---|---|---|---|")
        print(f"| {args.attention} | {args.min_length} to {args.max_length} | {parameters:,} | {steps:,} "
              f"| {seconds / 60:.1f} "
              f"| {run['metrics']['dev']['accuracy']:.4f} | {labels.count(majority) / len(labels):.4f} |")


def example(seed, split, number, min_length, max_length):
    """(expression, value) of more than `min_length` and fewer than `max_length` tokens, as the Arena has it."""
    rng = random.Random(draws.key(seed, "listops", split, number))
    while True:
        tokens = []
        value = expression(rng, tokens, 1, max_length)
        if min_length < len(tokens) < max_length:
            return " ".join(tokens), value


def expression(rng, tokens, depth, max_length):
    """Append a random expression to `tokens` and return its value; it ends early where it is too long already."""
    if depth == MAX_DEPTH or rng.random() > OPERATOR_SHARE or len(tokens) >= max_length:
        tokens.append(str(rng.randrange(10)))
        return int(tokens[-1])
    operator = rng.choice(list(OPERATORS))
    tokens.append(operator)
    values = [expression(rng, tokens, depth + 1, max_length) for _ in range(rng.randint(2, MAX_ARGUMENTS))]
    tokens.append(END)
    return OPERATORS[operator](values)


def write(path, split, count, args):
    """Write the examples and return their labels."""
    labels = []
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for number in range(count):
            text, value = example(args.seed, split, number, args.min_length, args.max_length)
            writer.writerow((text, value))
            labels.append(value)
    return labels


def new_model(folder, args):
    """Write a new model with a tokenizer of one token for each word, and return the number of its parameters."""
    words = [*BERT_SPECIALS, *OPERATORS, END, *map(str, range(10))]
    tokenizer = bert_tokenizer({word: index for index, word in enumerate(words)})
    choices = {key: int(value) for key, _, value in (choice.partition("=") for choice in args.architecture)}
    torch.manual_seed(args.seed)
    model = Albert(AlbertConfig(**MODEL | dict(vocab_size=len(words), max_position_embeddings=args.max_length + 2,
                                               attention=args.attention) | choices))
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return sum(parameter.numel() for parameter in model.parameters())


def updates_per_second(folder, args):
    run = finetune(folder, "speed", args, ["max_steps=20", "log_every=5", "eval_every=1000"])
    return sum(5 for _ in run["train"][1:]) / sum(record["seconds"] for record in run["train"][1:])


def finetune(folder, name, args, settings):
    """Train the new model: {"train": log records with "seconds", "metrics": metrics.json}."""
    runs = folder / name
    command = [sys.executable, ROOT / "main-finetune.py", "--task", "classify", "--init-from", folder / "model", "--data",
               folder / "train.csv", "--dev", folder / "dev.csv", "--cache-dir", folder / "cache", "--runs-dir", runs,
               "--tqdm-off"]
    common = [f"seq_len={args.max_length + 2}", "batch_size=32", "micro_batch_size=32", "learning_rate=1e-3",
              "max_epochs=100000", "log_every=20", f"seed={args.seed}"]
    for setting in (*common, *settings, *args.set):
        command += ["--set", setting]
    done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, env=os.environ)
    if done.returncode:
        raise SystemExit(done.returncode)
    run, = runs.iterdir()
    train, tokens = [], 0
    for record in map(json.loads, (run / "log.jsonl").read_text().splitlines()):
        if record["kind"] == "train":
            train.append(record | {"seconds": (record["tokens"] - tokens) / record["tokens_per_second"]})
            tokens = record["tokens"]
    return {"train": train, "metrics": json.loads((run / "metrics.json").read_text())}


if __name__ == "__main__":
    main()
