"""Fine-tune a checkpoint on a task: python main-finetune.py --task sst2 --init-from CHECKPOINT --data FOLDER"""
import argparse
import copy
import os
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

from albert import AlbertConfig
from albert.pretrained import checkpoint_folder, read_config
from data.features import features
from data.task_files import TASKS, read_task
from data.tokenizer import load_tokenizer
from hps import HPS, SettingError, check, grid, override
from trainer.command import (data_of_run, digest_of, finished_run, leave_with, parse, resume_auto, resumed_settings, stopped,
                             where_it_runs)
from trainer.errors import Diverged, RunError
from trainer.finetuning import plan_steps
from trainer.initial import check_changes, freeze, model_to_finetune
from trainer.kinds import KINDS
from trainer.loop import Trainer
from trainer.results import compare, finish, report
from trainer.run import begin, cache_of, newest_checkpoint, open_run

# Flags that decide what is trained; they are kept in the run's config.json. The others say how this process runs.
TRAINING_FLAGS = dict(task=None, init_from=None, model=None, data=None, dev=None, text="text", text_pair=None,
                      label="label", small=False, freeze=None)


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
    parser.add_argument("--freeze", metavar="WHAT", help="leave as they are the embeddings, or as many first layers with them")
    parser.add_argument("--seeds", type=int, default=1, metavar="N",
                        help="train with N seeds, from `seed` on, and average the scores")
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
    return flags, hps, override(hps, args.set)


def variants(args, hps, keys):
    """(words, hyperparameters, keys that were set) of every run that --sweep and --seeds ask for."""
    for words, swept, swept_keys in grid(hps, keys, args.sweep):
        check_changes(swept_keys)
        check(swept)
        AlbertConfig.from_dict(vars(swept))
        for seed in range(swept.seed, swept.seed + args.seeds):
            yield words, SimpleNamespace(**vars(swept) | {"seed": seed}), swept_keys


def finetune(args, flags, hps, keys, data, world, asked):
    """One run; ``asked`` is its digest. Returns its trainer, its folder and the held-out scores of its best step, None if it
    was stopped."""
    kind = KINDS[data.kind]
    if args.resume:
        path, state = world.from_main(lambda: newest_checkpoint(args.resume, "fingerprint", data.fingerprint))
        tokenizer, model, changes = load_tokenizer(args.resume), kind.model.from_pretrained(path), []
    else:
        labels = kind.labels | ({"id2label": dict(enumerate(data.labels))} if data.labels else {})
        tokenizer, model, changes = model_to_finetune(checkpoint_folder(flags.init_from), hps, keys, kind.model, labels)
        path = state = None
    if flags.freeze:
        freeze(model, flags.freeze)
    with world.main_first():
        (train, train_notes), (dev, dev_notes), *test = (
            features(data.kind, part, tokenizer, hps.seq_len, len(data.labels), hps.doc_stride, cache_of(args))
            for part in (data.train, data.dev, *data.test.values()))
    if not args.resume:
        plan_steps(hps, len(train), keys)
        check(hps)
        model.finetuned = {"inputs": list(data.train.inputs), "seq_len": hps.seq_len, "doc_stride": hps.doc_stride}
    trainer = Trainer(kind.task(data, train, dev, hps, world), model, tokenizer, hps, world, args.tqdm_off, args.profile)
    if args.resume:
        trainer.restore(path, state)
    run = open_run(args, f"finetune-{flags.task}", {
        **vars(hps), **vars(flags), "kind": data.kind, "fingerprint": data.fingerprint, "asked": asked}, trainer, state)
    world.print(*data.notes, *(f"training: {note}" for note in train_notes), *(f"held out: {note}" for note in dev_notes),
                *(f"{flags.init_from}: {line}" for line in changes), *data.classes(),
                f"{flags.task}: {len(data.train):,} training examples, {len(data.dev):,} held out; {hps.max_steps:,} "
                f"updates of {hps.batch_size}, {where_it_runs(trainer, run)}")
    with closing(run):                                   # nobody else writes into its folder until all is written
        trainer.fit(run)
        scores = None if trainer.stopped else finish(
            trainer, run, flags.task, dict(zip(data.test, (made for made, _ in test))))
    return trainer, run, scores


def main():
    args = parse_arguments()
    flags, hps, keys = settings(args)
    planned = list(variants(args, hps, keys))                      # all are checked before the first, and before data is read
    world = begin(args)
    with data_of_run(args):
        data = read_task(flags.task, flags.data, flags.dev, flags.text, flags.text_pair, flags.label, flags.small)
    for _, chosen, _ in planned:
        KINDS[data.kind].task.check_options(data.kind, chosen)
    if args.no_save:
        data.test = {}
    results, code, name, several = [], 0, f"finetune-{flags.task}", len(planned) > 1
    for number, (words, chosen, chosen_keys) in enumerate(planned, start=1):
        own, asked = copy.copy(args), digest_of(args, flags, chosen, data.fingerprint)
        if several:
            world.print(f"\n{words}, seed {chosen.seed} ({number} of {len(planned)})")
        if several and args.resume == "auto" and (done := world.from_main(
                lambda: finished_run(args.runs_dir, name, asked))):
            world.print(f"finished before: {done[1]}")
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
            code = stopped(trainer, run, several)
            break
        results.append((words, scores, run.path))
        if world.is_main:
            report(trainer, run, scores)
    if not results and not code:
        raise RunError("none of the runs came to its end")
    if several and results and world.is_main:
        compare(results, data.metrics)
    return code


if __name__ == "__main__":
    leave_with(main, SettingError)
