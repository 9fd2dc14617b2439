"""Fine-tune a checkpoint on a task: python main-finetune.py --task sst2 --init-from CHECKPOINT --data FOLDER"""
import argparse
import copy
import itertools
import os
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import trainer.openmp  # noqa: F401 (before torch)
from albert import AlbertConfig
from albert.pretrained import checkpoint_folder, read_config
from data.features import features
from data.task_files import TASKS, read_task
from data.tokenizer import load_tokenizer
from hps import HPS, SettingError, check, override
from trainer.command import (DEFAULT_CACHE, digest_of, finished_run, how_to_resume, leave_with, parse, resume_auto,
                             resumed_settings, where_it_runs)
from trainer.errors import Diverged, RunError
from trainer.finetuning import plan_steps
from trainer.initial import adapted_model, check_changes, check_vocabulary, freeze
from trainer.kinds import KINDS
from trainer.loop import Trainer
from trainer.results import finish, say, table
from trainer.run import begin, newest_checkpoint, open_run, run_config

# Flags that decide what is trained; they are kept in the run's config.json. The others say how this process runs.
TRAINING_FLAGS = dict(task=None, init_from=None, model=None, data=None, dev=None, text="text", text_pair=None,
                      label="label", small=False, freeze=None)
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--task", help=", ".join(TASKS))
    parser.add_argument("--init-from", metavar="CHECKPOINT",
                        help="run folder, or folder or hub name in the Hugging Face layout")
    parser.add_argument("--model", help="whose hyperparameters of hps.py count (default: base or bert-base, as the "
                                        "checkpoint is); the architecture is the checkpoint's")
    parser.add_argument("--data", help="folder in the task's own layout, or your .csv, .tsv, .jsonl, .parquet, CoNLL or SQuAD "
                                       "file (default, for GLUE, SQuAD and RACE: from the hub)")
    parser.add_argument("--dev", help="file to score on, where --data is a file (default: a tenth of it)")
    parser.add_argument("--text", help="column of the text (default: text)")
    parser.add_argument("--text-pair", help="column of the second text")
    parser.add_argument("--label", help="column of the label (default: label)")
    parser.add_argument("--small", action="store_true", help="train on 1 %% of the examples (at least 100)")
    parser.add_argument("--freeze", metavar="WHAT", help="embeddings, or the number of first layers to leave as they are")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="train N times, from seed on, and average")
    parser.add_argument("--sweep", action="append", default=[], metavar="KEY=V1,V2,...", help="train with each value")
    args = parse(parser)
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: write a number from 1 on")
    if args.resume not in (None, "auto") and (args.sweep or args.seeds != 1):
        parser.error("--resume RUN goes on with one run: leave --sweep and --seeds out, or write --resume auto for all of them")
    return args


def settings(args):
    """Flags and hyperparameters of the training, of the run to resume or of a new one, and the keys that were set."""
    given = {name: value for name, value in vars(args).items() if name in TRAINING_FLAGS}
    given |= {name: os.path.abspath(os.path.expanduser(given[name])) for name in ("data", "dev") if given.get(name)}
    if args.resume not in (None, "auto"):
        # the data may lie elsewhere now; `finetune` compares it
        flags, hps, keys = resumed_settings(args, TASKS, TRAINING_FLAGS, given, ["data", "dev"],
                                            lambda flags: HPS[f"finetune-{flags.task}", flags.model], override)
        check(hps)
        if (Path(args.resume) / "metrics.json").exists():
            raise RunError(f"--resume {args.resume}: the run is finished, see its metrics.json; to train on from it: "
                           "--init-from")
        return flags, hps, keys
    flags = SimpleNamespace(**TRAINING_FLAGS | given)
    if flags.task not in TASKS:
        raise RunError(f"--task {flags.task or '...'}: choose from {', '.join(TASKS)}")
    if not flags.init_from:
        raise RunError("--init-from: name the checkpoint to fine-tune, a run folder or one in the Hugging Face layout")
    if flags.model is None:
        kind = read_config(checkpoint_folder(flags.init_from)).model_type
        flags.model = "base" if kind == "albert" else "bert-base"
    hps = copy.copy(HPS[f"finetune-{flags.task}", flags.model])
    keys = override(hps, args.set)
    check_changes(keys)
    check(hps)
    return flags, hps, keys


def variants(args, hps, keys, kind):
    """(words, hyperparameters, keys that were set) of every run that --sweep and --seeds ask for."""
    axes = []
    for sweep in args.sweep:
        key, equals, values = sweep.partition("=")
        axis = [f"{key}={value}" for value in values.split(",")]
        if not (equals and values):
            raise SettingError(f"--sweep {sweep}: write it as key=value,value")
        if len(set(axis)) < len(axis) or any(other[0].startswith(f"{key}=") for other in axes):
            raise SettingError(f"--sweep {sweep}: write each key once, with all its values, and each of them once")
        axes.append(axis)
    for assignments in itertools.product(*axes):
        swept = copy.copy(hps)
        try:
            swept_keys = [*keys, *override(swept, assignments)]
        except SettingError as error:
            raise SettingError(str(error).replace("--set", "--sweep", 1)) from None
        check_changes(swept_keys)
        check(swept)
        AlbertConfig.from_dict(vars(swept))
        KINDS[kind][1].check_options(kind, swept)
        for seed in range(swept.seed, swept.seed + args.seeds):
            yield " ".join(assignments) or "as set", SimpleNamespace(**{**vars(swept), "seed": seed}), swept_keys


def start(args, flags, hps, keys, data, world):
    """The tokenizer, the model with lines that say how it was changed, and the path and state of the checkpoint of --resume."""
    model_class, _, labels = KINDS[data.kind]
    if args.resume:
        if run_config(args.resume).get("fingerprint") != data.fingerprint:
            raise RunError(f"--resume {args.resume}: the data has changed since the run began; start a new run "
                           "without --resume")
        path, state = world.from_main(lambda: newest_checkpoint(args.resume))
        return load_tokenizer(args.resume), model_class.from_pretrained(path), [], path, state
    folder = checkpoint_folder(flags.init_from)
    tokenizer, config = load_tokenizer(folder), read_config(folder)
    check_vocabulary(folder, config, tokenizer)
    if "seq_len" not in keys:
        hps.seq_len = min(hps.seq_len, config.max_position_embeddings)
    changed = [*keys, *(key for key in DROPOUTS if getattr(hps, key) != getattr(config, key))]
    if data.labels:
        labels = labels | {"id2label": dict(enumerate(data.labels))}
    return tokenizer, *adapted_model(folder, tokenizer, hps, changed, model_class, **labels), None, None


def finetune(args, flags, hps, keys, data, world, asked):
    """One run; ``asked`` is its digest. Returns its trainer, its folder and the held-out scores of its best step, None if it
    was stopped."""
    tokenizer, model, changes, path, state = start(args, flags, hps, keys, data, world)
    if flags.freeze:
        freeze(model, flags.freeze)
    with world.main_first():
        (train, train_notes), (dev, dev_notes), *test = (
            features(data.kind, part, tokenizer, hps.seq_len, len(data.labels), hps.doc_stride,
                     args.cache_dir or DEFAULT_CACHE) for part in (data.train, data.dev, *data.test.values()))
    if not args.resume:
        plan_steps(hps, len(train), keys)
        check(hps)
    task = KINDS[data.kind][1](data, train, dev, hps, world)
    trainer = Trainer(task, model, tokenizer, hps, world, args.tqdm_off or not world.is_main, args.profile)
    if args.resume:
        trainer.restore(path, state)
    run = open_run(args, f"finetune-{flags.task}", {
        **vars(hps), **vars(flags), "kind": data.kind, "inputs": list(data.train.inputs),
        "fingerprint": data.fingerprint, "cpu": args.cpu,
        "cache_dir": os.path.abspath(os.path.expanduser(args.cache_dir or DEFAULT_CACHE)), "asked": asked}, trainer, state)
    if world.is_main:
        print(*data.notes, *(f"training: {note}" for note in train_notes), *(f"held out: {note}" for note in dev_notes),
              *(f"{flags.init_from}: {line}" for line in changes),
              f"{flags.task}: {len(data.train):,} training examples, {len(data.dev):,} held out; {hps.max_steps:,} "
              f"updates of {hps.batch_size}, {where_it_runs(trainer, run)}", sep="\n", flush=True)
    with closing(run):
        trainer.fit(run)
    return trainer, run, None if trainer.stopped else finish(
        trainer, run, flags.task, dict(zip(data.test, (made for made, _ in test))))


def main():
    args = parse_arguments()
    flags, hps, keys = settings(args)
    world = begin(args)
    data = read_task(flags.task, flags.data, flags.dev, flags.text, flags.text_pair, flags.label, flags.small)
    if args.no_save:
        data.test = {}
    results, code, name = [], 0, f"finetune-{flags.task}"
    planned = list(variants(args, hps, keys, data.kind))                                # all are checked before the first
    several = len(planned) > 1
    for number, (words, chosen, chosen_keys) in enumerate(planned, start=1):
        own, asked = copy.copy(args), digest_of(args, flags, chosen, data.fingerprint)
        if several and world.is_main:
            print(f"\n{words}, seed {chosen.seed} ({number} of {len(planned)})")
        if several and args.resume == "auto" and (done := world.from_main(
                lambda: finished_run(args.runs_dir, name, asked))):
            if world.is_main:
                print(f"finished before: {done[1]}")
            results.append((words, *done))
            continue
        training = settings(own) if resume_auto(own, world, name, asked) else (flags, chosen, chosen_keys)
        trainer = run = None                             # the last model and its optimisers go before the next are made
        try:
            trainer, run, scores = finetune(own, *training, data, world, asked)
        except (Diverged, SettingError) as error:        # a value that is too high ends its own run alone
            if not several:
                raise
            if world.is_main:
                print(f"error: {words}, seed {chosen.seed}: {error}", file=sys.stderr, flush=True)
            continue
        if trainer.stopped:
            if world.is_main and run.path is not None:
                print(how_to_resume(trainer, None if several else run))
            code = 128 + trainer.stopped
            break
        results.append((words, scores, run.path))
        if world.is_main:
            say(trainer, run, scores)
    if not results and not code:
        raise RunError("none of the runs came to its end")
    if several and results and world.is_main:
        print(f"\n{table([result[:2] for result in results], data.metrics)}")
        *_, best = max(results, key=lambda result: result[1][data.metrics[0]])
        if best is not None:
            print(f"best run: {best}")
    return code


if __name__ == "__main__":
    leave_with(main, SettingError)
