"""Pretrain ALBERT (or BERT) on text: python main-pretrain.py --model tiny"""
import argparse
import glob
import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import trainer.openmp  # noqa: F401 (before torch)
import torch

from albert import AlbertConfig, AlbertForPretraining
from albert.pretrained import checkpoint_folder, read_config as read_model_config
from data import fast, native
from data.sources import NAMED_SOURCES, open_source
from data.tokenizer import MARKED_LANGUAGES, load_tokenizer, special_ids, vocabulary_size
from hps import HPS, SettingError, check, override
from trainer import checkpoints, machine
from trainer.command import (DEFAULT_CACHE, add_process_flags, digest_of, how_to_call, how_to_resume, leave_with,
                             refuse_changes, restore_process, resume_auto, resumed_at)
from trainer.errors import RunError
from trainer.initial import adapted_model, check_changes, check_vocabulary, new_model
from trainer.loop import Trainer
from trainer.pretraining import Pretraining
from trainer.profiling import estimate
from trainer.run import begin, open_run, read_config, settings_of

# Flags that decide what is trained; they are kept in the run's config.json. The others say how this process runs.
TRAINING_FLAGS = dict(model="base", data=None, text_field="text", documents="file", small=False, tokenizer=None,
                      init_from=None, preprocess="fast")
PIPELINES = {"fast": fast, "native": native}


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
    parser.add_argument("--tokenizer", help="tokenizer.json, run folder, SentencePiece .model or BERT's vocab.txt (default: that of "
                                            "--init-from, else train one)")
    parser.add_argument("--init-from", metavar="CHECKPOINT",
                        help="go on from a run folder, or a folder or hub name in the Hugging Face layout")
    parser.add_argument("--preprocess", help="fast, or native: text to batches in plain Python, the same and slower "
                                             "(default: fast)")
    parser.add_argument("--dry-run", action="store_true", default=False,
                        help="build everything, say what the run would take, and stop")
    add_process_flags(parser)
    args = parser.parse_args()
    if args.resume and args.no_save:
        parser.error("--resume goes on in the run's folder: leave --no-save out")
    return args


def settings(args):
    """Flags and hyperparameters of the training, of the run to resume or of a new one, and the keys that were set."""
    given = {name: value for name, value in vars(args).items() if name in TRAINING_FLAGS}
    if "data" in given:
        given["data"] = [absolute(name) for name in given["data"]]
    if args.resume not in (None, "auto"):
        return resumed_settings(args, given)
    flags = SimpleNamespace(**TRAINING_FLAGS | given)
    if flags.preprocess not in PIPELINES:
        raise SettingError(f"--preprocess {flags.preprocess}: there are {', '.join(PIPELINES)}")
    hps = SimpleNamespace(**vars(HPS["pretrain", flags.model]))
    keys = override(hps, args.set)
    check(hps)
    AlbertConfig.from_dict(vars(hps))                  # refuses an impossible architecture before the text is read
    flags.data = flags.data or ["pydocs" if flags.model == "tiny" else "wikipedia"]
    if "max_position_embeddings" in keys and hps.max_position_embeddings < hps.seq_len:
        raise SettingError(f"max_position_embeddings={hps.max_position_embeddings} is below seq_len={hps.seq_len}")
    hps.max_position_embeddings = max(hps.max_position_embeddings, hps.seq_len)
    return flags, hps, keys


def absolute(name):
    """The name of a source, a local one as an absolute path: a run may be resumed from another folder."""
    if name in NAMED_SOURCES or name.startswith("hf:"):
        return name
    name = os.path.expanduser(name)
    if glob.has_magic(name) and not os.path.exists(name):
        return os.path.join(glob.escape(os.getcwd()), name)
    return os.path.abspath(name)


def resumed_settings(args, given):
    folder = args.resume
    config = TRAINING_FLAGS | read_config(folder)
    if config["task"] != "pretrain":
        raise RunError(f"--resume {folder}: not a run of {Path(__file__).name}")
    restore_process(args, folder, config)
    flags = settings_of(folder, config, TRAINING_FLAGS)
    hps = settings_of(folder, config, vars(HPS["pretrain", flags.model]))
    keys = override(hps, args.set)
    check(hps)
    flags.data = given.pop("data", flags.data)                  # it may lie elsewhere now; `newest_of` compares the text
    refuse_changes(folder, config, given | {key: getattr(hps, key) for key in keys})
    flags.tokenizer = str(folder)
    return flags, hps, keys


def main():
    args = parse_arguments()
    flags, hps, keys = settings(args)
    world = begin(args)
    machine.autocast_dtype(hps.precision, world.device)    # refuses one that this device has not, before the text is read
    asked = digest_of(flags, hps)
    if resume_auto(args, world, "pretrain", asked):
        flags, hps, keys = settings(args)
    quiet = args.tqdm_off or not world.is_main
    pipeline = PIPELINES[flags.preprocess]

    start = checkpoint_folder(flags.init_from) if flags.init_from and not args.resume else None
    adopted = [key for key in keys if key != "vocab_size"]                  # by a checkpoint; that one is the tokenizer's
    if start:
        config = read_model_config(start)                               # its faults are told before any text is read
        check_vocabulary(start, config, load_tokenizer(start))
        check_changes(adopted)
        if config.type_vocab_size < 2:
            raise RunError(f"{start}: type_vocab_size={config.type_vocab_size}: pretraining needs 2, for two segments")
    source = open_source(flags.data, text_field=flags.text_field, documents=flags.documents, small=flags.small)
    if world.is_main and source.left_out:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in source.left_out.most_common(5))
        print(f"{source.name}: {source.left_out.total():,} files of no known kind are left out ({kinds})", flush=True)
    # the seed of a vocabulary's sample is not the run's: runs of several seeds share one, and so their held-out targets
    store, tokenizer = pipeline.prepare(source, args.cache_dir or DEFAULT_CACHE, tokenizer=flags.tokenizer or start,
                                        kind=hps.tokenizer_kind, vocab_size=hps.vocab_size, seed=0,
                                        language=hps.language, lower_case=hps.lower_case,
                                        strip_accents=hps.strip_accents, num_workers=torch.get_num_threads(),
                                        progress=not quiet, announce=world.is_main, world=world)
    size = vocabulary_size(tokenizer)
    if (flags.tokenizer or start) and not args.resume and world.is_main:
        for key in keys:
            if key in ("lower_case", "strip_accents") or key == "vocab_size" and hps.vocab_size != size:
                print(f"{key}={getattr(hps, key)} is not used: {flags.tokenizer or start} has its own {size:,} pieces")
    hps.vocab_size, hps.pad_token_id, state = size, special_ids(tokenizer).pad, None
    if args.resume:
        path, state = world.from_main(lambda: newest_of(args.resume, store))
        model, changes = AlbertForPretraining.from_pretrained(path), []
    elif start:
        model, changes = adapted_model(start, tokenizer, hps, adopted)
    else:
        model, changes = new_model(hps), []
    task = Pretraining(store, tokenizer, hps, world, pipeline)
    trainer = Trainer(task, model, tokenizer, hps, world, quiet, args.profile)
    if world.is_main:
        if hps.language in MARKED_LANGUAGES and hps.strip_accents and not (flags.tokenizer or start or "strip_accents" in keys):
            print(f"language={hps.language}: without its marks words look alike (in Korean syllables fall into letters); --set "
                  "strip_accents=false keeps them")
        for line in task.remarks():
            print(line)
    if args.dry_run:
        lines = estimate(trainer, task.train.plan(0).length)
        if world.is_main:
            print(*lines, sep="\n")
        return 0
    if args.resume:
        trainer.restore(path, state)
    run = open_run(args, "pretrain", {
        "task": "pretrain", **vars(flags), **vars(hps), "text_sha256": store.meta["text_sha256"],
        "cache_dir": str(store.path.parent.absolute()),
        "cpu": args.cpu, "asked": asked}, trainer, state)
    if world.is_main:
        print(*(f"{flags.init_from}: {line}" for line in changes), sep="\n", end="\n" if changes else "")
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{flags.model}: {parameters:,} parameters, {hps.attention} attention, on {world.device} in "
              f"{trainer.precision}; {len(task.train.plan(0).label):,} sequences an epoch; "
              f"{'nothing is saved' if run.path is None else f'run folder {run.path}'}{resumed_at(trainer)}", flush=True)
    try:
        scores = trainer.fit(run)
    finally:
        run.close()
    if world.is_main:
        report(flags, run, task, trainer, scores)
    return 128 + trainer.stopped if trainer.stopped else 0


def newest_of(run, store):
    """Path and state of the newest good checkpoint of a run that was trained on this store."""
    if read_config(run).get("text_sha256") != store.meta["text_sha256"]:
        raise RunError(f"--resume {run}: the text, or its cut into sentences, has changed since the run began; "
                       "name the old text by --data, or start a new run without --resume")
    return checkpoints.newest(Path(run) / "checkpoints")


def report(flags, run, task, trainer, scores):
    if trainer.stopped:
        if run.path is not None:
            print(how_to_resume(trainer, run))
        return
    print(f"\n{task.summary(scores)}")
    if trainer.best["step"] != trainer.step:
        print(f"the least held-out loss, {trainer.best['loss']:.3f}, was that of step {trainer.best['step']}, which is kept too")
    if run.path is not None:
        checkpoints.write_json(run.path / "metrics.json", {
            "task": "pretrain", **run.commands(), "steps": trainer.step, "seed": trainer.hps.seed, "dev": scores,
            "best": {name: trainer.best[name] for name in ("step", "loss")}})
        mask = trainer.tokenizer.id_to_token(special_ids(trainer.tokenizer).mask)
        text = f"the {mask} of the file" if trainer.hps.language == "en" else f"TEXT WITH {mask} IN IT"
        print(f"run folder:  {run.path}\ncurves:      {run.path / 'curves.png'}\nask it:\n"
              f"  {how_to_call('main-inference.py')} {shlex.quote(str(run.path))} {shlex.quote(text)}")
    print(f"next, on text of your own:\n  {how_to_call()} --model {flags.model} --data FOLDER_OF_TEXT_FILES")


if __name__ == "__main__":
    leave_with(main, SettingError)
