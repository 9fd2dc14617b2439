"""Whole pretraining steps beside 🤗 Transformers: the same model, the same batches, interleaved.

    python bench/train_step.py --data DATA                                  # with pretrain/ and vocab/ in it
    python bench/train_step.py --data DATA --models bert-base --shapes 8x128
    python bench/train_step.py --data DATA --curves docs/train-step.png      # over length and depth, a picture

A step is forward, backward, clipping and AdamW of masked language modelling and sentence order, over real batches from the
token store, padding as it falls. Ours is the step of `Trainer`, as main-pretrain.py runs it; the peer is
AlbertForPreTraining (BertForPreTraining) with PyTorch's AdamW, eager or by torch.compile. Each side has a process of its
own: ours keeps freed memory as the scripts do, the peer runs as it comes. Columns: real tokens (no padding) a second; how
many times as fast the first side is (median over the rounds); the operations of the step's products (`flops_per_token`) over
what the machine does in the largest of them, the share of the ceiling; and the process's peak memory.
"""
import argparse
import itertools
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from albert import AlbertConfig
from data.examples import NO_LABEL
from data.sources import open_source
from data.store import prepare
from data.tokenizer import vocabulary_size
from hps import HPS
from trainer import distributed, machine
from trainer.flops import flops_per_token, matmul_flops
from trainer.initial import new_model
from trainer.loop import Trainer
from trainer.optimizers import build_optimizers
from trainer.pretraining import Pretraining

SIDES = {"ours, bf16": ("ours", "bf16"), "ours, fp32": ("ours", "fp32"), "peer, bf16": ("peer", "bf16"),
         "peer, fp32": ("peer", "fp32"), "peer compiled, bf16": ("peer compiled", "bf16")}
LENGTHS, DEPTHS, TOKENS = (64, 128, 256, 512), (1, 3, 6, 12, 24), 1024           # of --curves
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["base"])
    parser.add_argument("--shapes", nargs="+", default=["8x128", "4x512"], help="rows x tokens of a step")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of each side a round")
    parser.add_argument("--curves", type=Path, metavar="PNG",
                        help=f"the first model at {LENGTHS} tokens a row and with {DEPTHS} layers instead, in bf16")
    parser.add_argument("--cache-dir", default="~/.cache/albert")
    args = parser.parse_args()
    print(f"{DEVICE}, {torch.get_num_threads()} threads, median of {args.rounds} rounds of {args.steps} steps in turn\n")
    print(f"| model | rows x tokens | side | tokens/s | `{args.sides[0]}` is times as fast | share of the ceiling | "
          "peak memory, MB |\n|---|---|---|---|---|---|---|")
    if args.curves:
        curves(args)
        return
    for model, shape in itertools.product(args.models, args.shapes):
        compare(args, model, shape)


def curves(args):
    """Rates and memory of ours and of the eager peer in bf16, against length and depth, as a table and a picture."""
    model, args.sides = args.models[0], ["ours, bf16", "peer, bf16"]
    draw(args.curves, model, args.sides, {
        "tokens a row": {length: compare(args, model, f"{TOKENS // length}x{length}") for length in LENGTHS},
        "layers": {depth: compare(args, model, f"{TOKENS // 128}x128", depth) for depth in DEPTHS}})


def draw(path, model, sides, measured):
    """measured: {axis: {point: what `compare` returns}}."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), layout="constrained")
    for column, (name, points) in zip(axes.T, measured.items()):
        for side in sides:
            for axis, values in zip(column, zip(*(points[at][side] for at in points))):
                axis.plot(list(points), values, marker="o", markersize=4, label=side)
        for axis, words in zip(column, ("tokens a second", "peak memory, MB")):
            axis.set(xscale="log", yscale="log" if name == "layers" else "linear", xlabel=name, ylabel=words)
            axis.set_xticks(list(points), list(points))
            axis.xaxis.minorticks_off()
            axis.grid(alpha=0.3, which="both")
    for axis in axes[:, 0]:
        axis.set_ylim(bottom=0)
    axes[0, 0].legend()
    figure.suptitle(f"{model}, steps of {TOKENS:,} tokens; right: rows of 128")
    figure.savefig(path, dpi=110)


def compare(args, model, shape, layers=None):
    """Print a row for each side; returns {side: (tokens a second, peak memory in MB)}."""
    context = multiprocessing.get_context("spawn")
    sides = {side: ProcessPoolExecutor(1, context, build, (*SIDES[side], model, shape, layers, args.data, args.cache_dir))
             for side in args.sides}
    rates, share, memory, medians = {side: [] for side in sides}, {}, {}, {}
    for number in range(args.rounds + 1):
        for side, process in sides.items():
            rate, memory[side], share[side] = process.submit(run, args.steps).result()
            if number:                                                  # the first round warms up
                rates[side].append((rate, share[side]))
    for process in sides.values():
        process.shutdown()
    name = f"{model}, {layers} layers" if layers else model
    for side, rounds in rates.items():
        ratio = statistics.median(ours / other for (ours, _), (other, _) in zip(rates[args.sides[0]], rounds))
        rate, reached = (statistics.median(column) for column in zip(*rounds))
        medians[side] = rate, memory[side]
        print(f"| {name} | {shape} | {side} | {rate:,.0f} | {ratio:.2f} | {reached:.0%} | {memory[side]:,.0f} |",
              flush=True)
    return medians


def build(kind, precision, model, shape, layers, data, cache):
    """Make a side in its process: ``step(batch)``, its batches, and the products of a step in FLOP."""
    global step, batches, flops, ceiling
    rows, length = map(int, shape.split("x"))
    hps = SimpleNamespace(**vars(HPS["pretrain", model]) | dict(
        seq_len=length, batch_size=rows, micro_batch_size=rows, attention="softmax", optimizer="adamw", learning_rate=1e-4,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, precision=precision, warmup_steps=10, num_workers=0))
    hps.num_hidden_layers = layers or hps.num_hidden_layers
    if kind == "ours" and DEVICE.type == "cpu":
        machine.keep_freed_memory()
    store, tokenizer = prepare(open_source([str(data / "pretrain")]), cache, tokenizer=data / "vocab" / "30k-clean.model",
                               kind="unigram", vocab_size=30_000, num_workers=2, progress=False, announce=False)
    hps.vocab_size = vocabulary_size(tokenizer)
    world = distributed.World(0, 1, DEVICE)
    task = Pretraining(store, tokenizer, hps, world)
    batches = (micro_batches for _, micro_batches in task.updates(task.position()))
    flops = rows * length * flops_per_token(AlbertConfig.from_dict(vars(hps)), length, hps.mask_prob,
                                            hps.mask_prob if kind == "ours" else 1.0)
    ceiling = matmul_flops(DEVICE, DTYPES[precision], rows * length, hps.hidden_size, hps.intermediate_size, repeats=30)
    if kind == "ours":
        trainer, received = Trainer(task, new_model(hps), tokenizer, hps, world, quiet=True), SimpleNamespace(signal=0)
        step = lambda micro_batches: trainer._update(micro_batches, received)  # noqa: E731
    else:
        step = peer_step(hps, DTYPES[precision], compiled=kind == "peer compiled")


def peer_step(hps, dtype, compiled):
    import transformers

    transformers.set_seed(0)
    names = "vocab_size embedding_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act " \
            "hidden_dropout_prob attention_probs_dropout_prob max_position_embeddings layer_norm_eps"
    settings = {name: getattr(hps, name) for name in names.split()}
    family = "Bert" if hps.model_type == "bert" else "Albert"
    peer = getattr(transformers, f"{family}ForPreTraining")(getattr(transformers, f"{family}Config")(**settings)).to(DEVICE)
    sentence = "next_sentence_label" if family == "Bert" else "sentence_order_label"
    optimizer, = build_optimizers(peer, hps)
    network = torch.compile(peer) if compiled else peer

    def step(micro_batches):
        (_, batch), = micro_batches
        batch = {name: tensor.to(DEVICE) for name, tensor in batch.items()}
        labels = torch.full_like(batch["input_ids"], NO_LABEL).flatten()
        labels[batch["masked_positions"]] = batch["mlm_labels"]
        with machine.autocast(None if dtype == torch.float32 else dtype, DEVICE):
            loss = network(input_ids=batch["input_ids"], token_type_ids=batch["token_type_ids"],
                           attention_mask=batch["attention_mask"], labels=labels.view_as(batch["input_ids"]),
                           **{sentence: batch["sentence_labels"]}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), hps.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    return step


def run(steps):
    """(real tokens a second, peak memory in MB, share of the ceiling) of some steps."""
    ready = [next(batches) for _ in range(steps)]
    tokens = sum(int(batch["attention_mask"].sum()) for micro_batches in ready for _, batch in micro_batches)
    synchronize()
    start = time.perf_counter()
    for micro_batches in ready:
        step(micro_batches)
    synchronize()
    seconds = time.perf_counter() - start
    return tokens / seconds, machine.peak_memory(DEVICE) / 1e6, flops * steps / seconds / ceiling


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
