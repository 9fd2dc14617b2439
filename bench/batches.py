"""Tokens a second from the token store to the batch, on one core.

    python bench/batches.py --data FOLDER_OF_TEXT_FILES

Ours makes segment pairs, swaps them, masks whole-word n-grams and lays out micro-batches; the peer, Transformers'
DataCollatorForLanguageModeling, gets rows of ready ids of the same length and masks single tokens. Both run
interleaved in one process; the medians and their ratio are printed.
"""
import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.examples import PretrainingExamples
from data.sources import open_source
from data.store import prepare
from data.tokenizer import save_tokenizer, special_ids, word_starts
from trainer.machine import environment


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["pydocs"])
    parser.add_argument("--tokenizer")
    parser.add_argument("--cache-dir", default="~/.cache/albert")
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)

    store, tokenizer = prepare(open_source(args.data), args.cache_dir, tokenizer=args.tokenizer, kind="unigram",
                               vocab_size=8000, num_workers=2)
    examples = PretrainingExamples(
        store, np.arange(store.num_documents), special_ids(tokenizer), word_starts(tokenizer), seed=0,
        seq_len=args.seq_len, mask_prob=0.15, max_ngram=3, whole_words=True, short_seq_prob=0.1,
        sentence_objective="sop")
    start = time.perf_counter()
    plan = examples.plan(0)
    planning = time.perf_counter() - start

    collate = peer(tokenizer)
    rows = np.asarray(store.tokens[:args.batch_size * args.seq_len]).reshape(args.batch_size, args.seq_len).tolist()
    rows = [{"input_ids": row} for row in rows]
    ours, theirs = [], []
    for number in range(args.rounds):
        samples = np.arange(number * args.batch_size, (number + 1) * args.batch_size) % len(plan.label)
        start = time.perf_counter()
        batch = {name: torch.from_numpy(array) for name, array in examples.batch(0, samples).items()}
        ours.append(int(batch["attention_mask"].sum()) / (time.perf_counter() - start))
        start = time.perf_counter()
        collate(rows)
        theirs.append(args.batch_size * args.seq_len / (time.perf_counter() - start))
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    print(f"{environment(torch.device('cpu'))['device']}, one core, {args.batch_size} x {args.seq_len} tokens")
    print("| | tokens/s | ratio |\n|---|---|---|")
    print(f"| DataCollatorForLanguageModeling | {theirs:,.0f} | 1.00 |")
    print(f"| PretrainingExamples.batch | {ours:,.0f} | {ours / theirs:.2f} |")
    print(f"\nplanning an epoch of {len(plan.label):,} samples: {planning:.2f} s")


def peer(tokenizer):
    """Transformers' collator over the same tokenizer."""
    import tempfile

    from transformers import AutoTokenizer, DataCollatorForLanguageModeling
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, folder)
        return DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(folder), mlm_probability=0.15)


if __name__ == "__main__":
    main()
