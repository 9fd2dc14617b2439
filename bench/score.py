"""What a pretraining run has learned, scored on all of its held-out documents beside models that see less.

    python bench/score.py runs/pretrain-...

Always 15 % of the tokens are masked, 80/10/10, with a fixed seed: n-grams of up to 3 whole words, and single tokens
as a second row. The unigram and bigram models are counted on the training documents and scored on the same masked
targets (the bigram model is shown the true token before each, also where that one is masked). "Shuffled context"
is the same model with the unmasked tokens of every row in random order. Sentence order is scored on balanced pairs.
"""
import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from albert import AlbertForPretraining
from data import draws
from data.examples import NO_LABEL
from data.sources import open_source
from data.store import prepare
from trainer import distributed, machine
from trainer.command import leave_with
from trainer.errors import RunError
from trainer.pretraining import Pretraining
from trainer.run import DEFAULT_CACHE, run_config

DISCOUNT = 0.75        # absolute discounting of the bigram counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cache-dir", help="default: the run's")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    args = parser.parse_args()
    config = run_config(args.run)
    if config["task"] != "pretrain":
        raise RunError(f"{args.run}: a run of {config['task']}; name one of main-pretrain.py")
    config = SimpleNamespace(**{"language": "en", "cache_dir": DEFAULT_CACHE} | config | dict(
        mask_prob=0.15, short_seq_prob=0.1, eval_sequences=10**9, micro_batch_size=64, batch_size=1))
    source = open_source(config.data, text_field=config.text_field, documents=config.documents, small=config.small)
    store, tokenizer = prepare(source, args.cache_dir or config.cache_dir, tokenizer=str(args.run), kind=config.tokenizer_kind,
                               vocab_size=config.vocab_size, language=config.language,
                               num_workers=2, progress=False)
    world = distributed.join()
    model = AlbertForPretraining.from_pretrained(args.run).to(world.device).eval()
    tasks = {name: Pretraining(store, tokenizer, SimpleNamespace(**vars(config) | masks), world) for name, masks in {
        "n-grams of up to 3 whole words": dict(max_ngram=3, whole_words=True),
        "single tokens": dict(max_ngram=1, whole_words=False)}.items()}

    task = next(iter(tasks.values()))
    unigram, bigram = ngram_models(task)
    results = {"documents": len(task.heldout.documents), "rows": {}}
    for name, task in tasks.items():
        batches = task.evaluation()
        labels = np.concatenate([batch["mlm_labels"].numpy() for batch in batches])
        before = np.concatenate([previous_tokens(batch) for batch in batches])
        scores = score(model, task, batches, world.device)
        ordinary = torch.from_numpy(task.heldout.ordinary_ids)
        shuffled = score(model, task, [shuffle_context(batch, number, ordinary)
                                       for number, batch in enumerate(batches)], world.device)
        results["rows"][name] = {
            "masked": len(labels), "unigram": float(-unigram[labels].mean()), "bigram": bigram(before, labels),
            "shuffled": shuffled["mlm_loss"], "loss": scores["mlm_loss"], "accuracy": scores["mlm_accuracy"]}
        results.setdefault("sentence_pairs", scores.get("pairs"))
        results.setdefault("sentence_accuracy", scores.get("sentence_accuracy"))
    print(json.dumps(results) if args.json else table(results))


def score(model, task, batches, device):
    """Mean losses and accuracies; sentence order over as many pairs of one label as of the other."""
    totals, verdicts = {}, {0: [], 1: []}
    dtype = machine.autocast_dtype("auto", device)
    for batch in batches:
        moved = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.inference_mode(), machine.autocast(dtype, device):
            out = model(moved["input_ids"], moved["token_type_ids"], moved["attention_mask"], moved["masked_positions"])
        logits, labels = out.mlm_logits.float(), moved["mlm_labels"]
        for name, value in (("loss", torch.nn.functional.cross_entropy(logits, labels, reduction="sum")),
                            ("correct", (logits.argmax(-1) == labels).sum()), ("masked", len(labels))):
            totals[name] = totals.get(name, 0.0) + float(value)
        if out.sop_logits is not None:
            for label, guess in zip(batch["sentence_labels"].tolist(), out.sop_logits.argmax(-1).tolist()):
                if label != NO_LABEL:
                    verdicts[label].append(guess == label)
    scores = {"mlm_loss": totals["loss"] / totals["masked"], "mlm_accuracy": totals["correct"] / totals["masked"]}
    pairs = min(map(len, verdicts.values()))
    if pairs:
        scores |= {"pairs": 2 * pairs, "sentence_accuracy": float(np.mean(verdicts[0][:pairs] + verdicts[1][:pairs]))}
    return scores


def true_ids(batch):
    ids = batch["input_ids"].clone()
    ids.view(-1)[batch["masked_positions"]] = batch["mlm_labels"]
    return ids


def previous_tokens(batch):
    return true_ids(batch).view(-1)[batch["masked_positions"] - 1].numpy()


def shuffle_context(batch, number, ordinary):
    """The batch with the ordinary unmasked tokens of each row in random order."""
    ids = batch["input_ids"].clone()
    free = torch.isin(true_ids(batch), ordinary)
    free.view(-1)[batch["masked_positions"]] = False
    for row in range(len(ids)):
        places = free[row].nonzero().squeeze(1)
        order = draws.bits(draws.key("shuffle", number, row), np.arange(len(places))).argsort()
        ids[row, places] = ids[row, places[torch.from_numpy(order)]]
    return {**batch, "input_ids": ids}


def ngram_models(task):
    """Log-probabilities (V,) of the unigram model; mean cross-entropy (nats) of the bigram model as a function."""
    store, size = task.train.store, len(task.train.starts_word)
    bounds = store.sentence_offsets[store.document_offsets]
    counts, pairs = np.zeros(size, np.int64), []
    for document in task.train.documents:
        tokens = store.tokens[bounds[document]:bounds[document + 1]].astype(np.int64)
        counts += np.bincount(tokens, minlength=size)
        pairs.append(tokens[:-1] * size + tokens[1:])
    kinds, pair_counts = np.unique(np.concatenate(pairs), return_counts=True)
    unigram = (counts + 1) / (counts.sum() + size)
    first = kinds // size
    totals = np.bincount(first, pair_counts, size)
    followers = np.bincount(first, minlength=size)

    def bigram(before, labels):
        wanted = before * size + labels
        place = np.minimum(np.searchsorted(kinds, wanted), len(kinds) - 1)
        count = np.where(kinds[place] == wanted, pair_counts[place], 0)
        total = np.maximum(totals[before], 1)
        share = np.where(totals[before] > 0, DISCOUNT * followers[before] / total, 1.0)
        return float(-np.log(np.maximum(count - DISCOUNT, 0) / total + share * unigram[labels]).mean())

    return np.log(unigram), bigram


def table(results):
    lines = [f"held-out documents: {results['documents']}; cross-entropies in nats",
             "", "| masks | masked tokens | unigram | bigram | shuffled context | model | below unigram | accuracy |",
             "|---|---|---|---|---|---|---|---|"]
    for name, row in results["rows"].items():
        lines.append(f"| {name} | {row['masked']:,} | {row['unigram']:.3f} | {row['bigram']:.3f} | {row['shuffled']:.3f} "
                     f"| {row['loss']:.3f} | {row['unigram'] - row['loss']:.3f} | {row['accuracy']:.3f} |")
    if results["sentence_accuracy"] is not None:
        lines += ["", f"sentence-order accuracy {results['sentence_accuracy']:.3f} on {results['sentence_pairs']:,} "
                      f"balanced pairs"]
    return "\n".join(lines)


if __name__ == "__main__":
    leave_with(main)
