"""Pretrain ALBERT (or BERT) on text: python main-pretrain.py --model tiny"""
import argparse
import os
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from albert import AlbertForPretraining
from albert.errors import ModelError
from albert.pretrained import checkpoint_folder
from data.errors import DataError
from data.sources import NAMED_SOURCES, open_source
from data.store import prepare
from data.tokenizer import save_tokenizer
from hps import HPS, SettingError, override
from trainer import checkpoints, distributed, machine
from trainer.errors import RunError
from trainer.initial import adapted_model, new_model
from trainer.loop import Trainer
from trainer.pretraining import Pretraining
from trainer.run import Run, read_config

# Flags that decide what is trained; they are kept in the run's config.json. The others say how this process runs.
TRAINING_FLAGS = dict(model="base", data=None, text_field="text", documents="file", small=False, tokenizer=None,
                      init_from=None)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", help="tiny, base, large, xlarge, xxlarge, bert-base or bert-large (default: base)")
    parser.add_argument("--data", nargs="+", metavar="SOURCE",
                        help="files, folders, globs, wikipedia, hf:NAME[:CONFIG] or pydocs (default: wikipedia; "
                             "tiny: pydocs)")
    parser.add_argument("--text-field", help="column or key of the text in jsonl, csv, parquet and hub data "
                                             "(default: text)")
    parser.add_argument("--documents", help="what a document is in a .txt file: file, blank-line or line "
                                            "(default: file)")
    parser.add_argument("--small", action="store_true", help="read 1 %% of the data (at least 2 MB)")
    parser.add_argument("--tokenizer", help="tokenizer.json, run folder or SentencePiece .model (default: train one)")
    parser.add_argument("--init-from", metavar="CHECKPOINT",
                        help="go on from a run folder, or a folder or hub name in the Hugging Face layout")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of hps.py")
    parser.add_argument("--resume", default=None, metavar="RUN", help="go on with the run in this folder")
    parser.add_argument("--runs-dir", default="runs", help="where the run's folder is made (default: runs)")
    parser.add_argument("--cache-dir", default="~/.cache/albert", help="tokenised text and trained tokenizers")
    parser.add_argument("--cpu", action="store_true", default=False, help="leave the GPU alone")
    parser.add_argument("--tqdm-off", action="store_true", default=False, help="plain lines instead of a bar")
    parser.add_argument("--no-save", action="store_true", default=False, help="write nothing but the cache")
    args = parser.parse_args()
    if args.resume and args.no_save:
        parser.error("--resume goes on in the run's folder: leave --no-save out")
    return args


def settings(args):
    """Flags and hyperparameters of the training, of the run to resume or of a new one, and the keys that were set."""
    given = {name: value for name, value in vars(args).items() if name in TRAINING_FLAGS}
    if args.resume:
        return resumed_settings(Path(args.resume), given, args.set)
    flags = SimpleNamespace(**TRAINING_FLAGS | given)
    hps = SimpleNamespace(**vars(HPS["pretrain", flags.model]))
    keys = override(hps, args.set)
    names = flags.data or ["pydocs" if flags.model == "tiny" else "wikipedia"]
    flags.data = [name if name in NAMED_SOURCES or name.startswith("hf:") else os.path.abspath(name) for name in names]
    hps.max_position_embeddings = max(hps.max_position_embeddings, hps.seq_len)
    return flags, hps, keys


def resumed_settings(folder, given, assignments):
    config = read_config(folder)
    flags = SimpleNamespace(**{name: config[name] for name in TRAINING_FLAGS})
    hps = SimpleNamespace(**{key: config.get(key, value) for key, value in vars(HPS["pretrain", flags.model]).items()})
    asked = SimpleNamespace(**vars(hps))
    keys = override(asked, assignments)
    for name, value in (given | {key: getattr(asked, key) for key in keys}).items():
        if value != config.get(name, value):
            raise RunError(f"--resume {folder}: the run has {name}={config[name]}, not {value}; leave it out, "
                           f"or start a new run without --resume")
    flags.tokenizer = str(folder)
    return flags, hps, keys


def main():
    args = parse_arguments()
    flags, hps, keys = settings(args)
    machine.keep_freed_memory()
    world = distributed.join(args.cpu)
    quiet = args.tqdm_off or not world.is_main

    source = open_source(flags.data, text_field=flags.text_field, documents=flags.documents, small=flags.small)
    with world.main_first():
        vocabulary = flags.tokenizer or flags.init_from and checkpoint_folder(flags.init_from)
        store, tokenizer = prepare(source, args.cache_dir, tokenizer=vocabulary, kind=hps.tokenizer_kind,
                                   vocab_size=hps.vocab_size, seed=hps.seed, num_workers=torch.get_num_threads(),
                                   progress=not quiet)
    hps.vocab_size = tokenizer.get_vocab_size()
    if args.resume:
        path, state = newest_of(args.resume, store)
        model, changes = AlbertForPretraining.from_pretrained(path), []
    elif flags.init_from:
        model, changes = adapted_model(flags.init_from, tokenizer, hps, keys)
    else:
        model, changes = new_model(hps), []
    task = Pretraining(store, tokenizer, hps, world)
    trainer = Trainer(task, model, tokenizer, hps, world, quiet)
    if args.resume:
        trainer.restore(path, state)
        run = Run(Path(args.resume), state["step"], writes=world.is_main)
    elif args.no_save or not world.is_main:
        run = Run(None)
    else:
        config = {"task": "pretrain", **vars(flags), **vars(hps), "store": store.path.name}
        run = Run.create(args.runs_dir, "pretrain", config, machine.environment(world.device))
        save_tokenizer(tokenizer, run.path)
    if world.is_main:
        print(*(f"{flags.init_from}: {line}" for line in changes), sep="\n", end="\n" if changes else "")
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{flags.model}: {parameters:,} parameters, {hps.attention} attention, on {world.device} in "
              f"{trainer.precision}; {len(task.train.plan(0).label):,} sequences an epoch; "
              f"{'nothing is saved' if run.path is None else f'run folder {run.path}'}", flush=True)
    scores = trainer.fit(run)
    run.close()
    if world.is_main:
        report(flags, run, task, trainer, scores)
    return 128 + trainer.stopped if trainer.stopped else 0


def newest_of(run, store):
    """Path and state of the newest good checkpoint of a run that was trained on this store."""
    if read_config(run)["store"] != store.path.name:
        raise RunError(f"--resume {run}: the text has changed since the run began; start a new run without --resume")
    return checkpoints.newest(Path(run) / "checkpoints")


def report(flags, run, task, trainer, scores):
    python = os.path.relpath(sys.executable) if sys.executable.startswith(os.getcwd()) else "python"
    command = f"{python} {Path(sys.argv[0]).name}"
    if trainer.stopped:
        if run.path is not None:
            print(f"stopped at step {trainer.step}; go on with\n  {command} --resume {shlex.quote(str(run.path))}")
        return
    print(f"\n{task.summary(scores)}")
    if run.path is not None:
        print(f"run folder:  {run.path}\ncurves:      {run.path / 'curves.png'}")
    print(f"next, on text of your own:\n  {command} --model {flags.model} --data FOLDER_OF_TEXT_FILES")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (DataError, ModelError, RunError, SettingError) as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
