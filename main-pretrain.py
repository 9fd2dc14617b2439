"""Pretrain ALBERT (or BERT) on text: python main-pretrain.py --model tiny"""
import argparse
import copy
from contextlib import closing
from types import SimpleNamespace

from albert import AlbertConfig, AlbertForPretraining
from albert.pretrained import checkpoint_folder, read_config
from data import fast, native
from data.sentences import check_language
from data.sources import absolute, open_source
from data.tokenizer import load_tokenizer, special_ids, vocabulary_size
from hps import HPS, SettingError, check, override
from trainer import machine
from trainer.command import (data_of_run, digest_of, leave_with, parse, resume_auto, resumed_settings, stopped,
                             where_it_runs)
from trainer.errors import RunError
from trainer.initial import adapted_model, adopt_language, check_changes, check_vocabulary, new_model
from trainer.loop import Trainer
from trainer.pretraining import Pretraining, vocabulary_remarks
from trainer.profiling import estimate
from trainer.results import finish_pretraining
from trainer.run import begin, cache_of, newest_checkpoint, open_run

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
    parser.add_argument("--tokenizer", help="tokenizer.json, run folder, SentencePiece .model or BERT's vocab.txt (default: "
                                            "that of --init-from, else train one)")
    parser.add_argument("--init-from", metavar="CHECKPOINT",
                        help="go on from a run folder, or a folder or hub name in the Hugging Face layout, by the "
                             "recipe of --model")
    parser.add_argument("--preprocess", help="fast, or native: text to batches in plain Python, slower "
                                             "(default: fast)")
    parser.add_argument("--dry-run", action="store_true", default=False,
                        help="build everything, say what the run would take, and stop")
    return parse(parser)


def settings(args):
    """Flags and hyperparameters of the training, of the run to resume or of a new one, and the keys that were set."""
    given = {name: value for name, value in vars(args).items() if name in TRAINING_FLAGS}
    if "data" in given:
        given["data"] = [absolute(name) for name in given["data"]]
    if args.resume not in (None, "auto"):
        # the text may lie elsewhere now; `newest_checkpoint` compares it
        flags, hps, keys = resumed_settings(args, ["pretrain"], TRAINING_FLAGS, given, ["data"],
                                            lambda flags: HPS["pretrain", flags.model], override)
        check(hps)
        flags.tokenizer = args.resume
        return flags, hps, keys
    flags = SimpleNamespace(**TRAINING_FLAGS | given)
    flags.data = flags.data or ["pydocs" if flags.model == "tiny" else "wikipedia"]
    hps = copy.copy(HPS["pretrain", flags.model])
    keys = override(hps, args.set)
    if flags.init_from:                                # its architecture counts, not that of --model
        check_changes(adopted(keys))
        adopt_language(hps, keys, flags.init_from)
    check(hps)
    check_language(hps.language)
    check_segments("--set", AlbertConfig.from_dict(vars(hps)))     # what makes no model is refused before text is read
    if "max_position_embeddings" in keys and hps.max_position_embeddings < hps.seq_len:
        raise SettingError(f"max_position_embeddings={hps.max_position_embeddings} is below seq_len={hps.seq_len}")
    hps.max_position_embeddings = max(hps.max_position_embeddings, hps.seq_len)
    return flags, hps, keys


def adopted(keys):
    """Of the keys that were set those that a checkpoint is to take: the size of the vocabulary is the tokenizer's."""
    return [key for key in keys if key != "vocab_size"]


def checkpoint_to_begin_with(args, flags):
    """Its folder, None where there is none; what is wrong with it is told before text is read."""
    if args.resume or not flags.init_from:
        return None
    start = checkpoint_folder(flags.init_from)
    config = read_config(start)
    check_vocabulary(start, config, load_tokenizer(start))
    check_segments(start, config)
    return start


def check_segments(place, config):
    if config.type_vocab_size < 2:
        raise RunError(f"{place}: type_vocab_size={config.type_vocab_size}: pretraining needs 2, for two segments")


def prepared_text(args, flags, hps, keys, start, world):
    """The token store and the tokenizer; ``hps`` takes the latter's numbers over."""
    if flags.preprocess not in PIPELINES:
        raise SettingError(f"--preprocess {flags.preprocess}: there are {', '.join(PIPELINES)}")
    with data_of_run(args):
        source = open_source(flags.data, text_field=flags.text_field, documents=flags.documents, small=flags.small)
    world.print(*source.remarks())
    given = flags.tokenizer or start
    store, tokenizer = PIPELINES[flags.preprocess].prepare(
        source, cache_of(args), tokenizer=given, kind=hps.tokenizer_kind, vocab_size=hps.vocab_size,
        language=hps.language, lower_case=hps.lower_case, strip_accents=hps.strip_accents,
        num_workers=machine.workers(), progress=world.is_main and not args.tqdm_off, announce=world.is_main, world=world)
    if not args.resume:
        world.print(*vocabulary_remarks(hps, keys, given, vocabulary_size(tokenizer)))
    hps.vocab_size, hps.pad_token_id = vocabulary_size(tokenizer), special_ids(tokenizer).pad
    return store, tokenizer


def main():
    args = parse_arguments()
    flags, hps, keys = settings(args)
    world = begin(args)
    machine.autocast_dtype(hps.precision, world.device)    # refuses one that this device has not, before the text is read
    asked = digest_of(args, flags, hps)
    if resume_auto(args, world, "pretrain", asked):
        flags, hps, keys = settings(args)
    start = checkpoint_to_begin_with(args, flags)
    store, tokenizer = prepared_text(args, flags, hps, keys, start, world)
    path = state = None
    if args.resume:
        path, state = world.from_main(lambda: newest_checkpoint(args.resume, "text_sha256", store.meta["text_sha256"]))
        model, changes = AlbertForPretraining.from_pretrained(path), []
    elif start:
        model, changes = adapted_model(start, tokenizer, hps, adopted(keys))
    else:
        model, changes = new_model(hps), []
    task = Pretraining(store, tokenizer, hps, world, PIPELINES[flags.preprocess])
    trainer = Trainer(task, model, tokenizer, hps, world, args.tqdm_off, args.profile)
    world.print(*task.remarks())
    if args.dry_run:
        world.print(*estimate(trainer, task.train.plan(0).length))
        return 0
    if args.resume:
        trainer.restore(path, state)
    run = open_run(args, "pretrain", {
        "task": "pretrain", **vars(flags), **vars(hps), "text_sha256": store.meta["text_sha256"], "asked": asked},
        trainer, state)
    world.print(*(f"{flags.init_from}: {line}" for line in changes),
                f"{flags.init_from or flags.model}: {sum(p.numel() for p in model.parameters()):,} parameters, "
                f"{len(task.train.plan(0).label):,} sequences an epoch, {where_it_runs(trainer, run)}")
    with closing(run):
        scores = trainer.fit(run)
        if trainer.stopped:
            return stopped(trainer, run)
        if world.is_main:
            finish_pretraining(trainer, run, scores, flags.model)
    return 0


if __name__ == "__main__":
    leave_with(main, SettingError)
