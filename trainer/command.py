"""What the training scripts share: the flags of the process, resuming under the run's own settings, leaving."""
import argparse
import errno
import hashlib
import json
import os
import shlex
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from albert.checksums import sha256
from albert.errors import ModelError
from albert.pretrained import checkpoint_folder
from data.errors import DataError
from trainer import checkpoints, distributed
from trainer.errors import RunError
from trainer.run import DEFAULT_CACHE, launch, run_config, settings_of

# Keys that change nothing of what is learned (`compile` the draws of dropout alone): a resumed run may go on with others.
PROCESS_KEYS = ("num_workers", "log_every", "save_every", "keep_checkpoints", "compile", "activation_checkpointing")
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE, errno.EACCES, errno.EPERM,
                errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)


def parse(parser):
    """The arguments, with the flags that say how this process runs, not what is trained."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of hps.py")
    parser.add_argument("--resume", default=None, metavar="RUN",
                        help="go on with the run in this folder; auto: with the newest unfinished one of these settings in "
                             "--runs-dir, or begin a new one")
    parser.add_argument("--runs-dir", default="runs", help="where the run's folder is made (default: runs)")
    parser.add_argument("--cache-dir", default=None,
                        help=f"tokenised text and trained tokenizers (default: {DEFAULT_CACHE}, or the resumed run's)")
    parser.add_argument("--cpu", action="store_true", default=False, help="leave the GPU alone")
    parser.add_argument("--tqdm-off", action="store_true", default=False, help="plain lines instead of a bar")
    parser.add_argument("--log", choices=("wandb",), default=None,
                        help="log to Weights & Biases too (pip install wandb; without a network: WANDB_MODE=offline)")
    parser.add_argument("--profile", type=_updates, default=0, metavar="N", help="write a trace of N updates, print the five "
                                                                            "costliest operations, and train on")
    parser.add_argument("--no-save", action="store_true", default=False, help="write nothing but the cache")
    args = parser.parse_args()
    if args.resume and args.no_save:
        parser.error("--resume goes on in the run's folder: leave --no-save out")
    return args


def _updates(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: write a number of updates")
    return int(text)


def resumed_settings(args, tasks, defaults, given, moved, recipe, override):
    """Flags, hyperparameters and the keys that were set of the run that --resume names, and of ``args`` --cpu, --cache-dir and
    --log as the run had them where they are not given.

    tasks: those of this script. defaults: of all flags. given: the flags of this command, of which ``moved`` may differ from
    the run's. recipe: from flags to hyperparameters. override: `hps.override`. Raises RunError for any other difference.
    """
    config = defaults | run_config(args.resume)
    if config["task"] not in tasks:
        raise RunError(f"--resume {args.resume}: not a run of {Path(sys.argv[0]).name}")
    for name, value in vars(settings_of(args.resume, config, dict(cpu=False, cache_dir=DEFAULT_CACHE, log=None))).items():
        setattr(args, name, getattr(args, name) or value)
    flags = settings_of(args.resume, config, defaults)
    hps = settings_of(args.resume, config, vars(recipe(flags)))
    keys = override(hps, args.set)
    for name, value in (given | {key: getattr(hps, key) for key in keys}).items():
        if name in moved:
            setattr(flags, name, value)
        elif value != config.get(name, value) and name not in PROCESS_KEYS:
            raise RunError(f"--resume {args.resume}: the run has {name}={config[name]}, not {value}; leave it out, "
                           f"or start a new run with --init-from {args.resume}")
    return flags, hps, keys


def digest_of(args, flags, hps, data=None):
    """Digest of what was asked to be trained, the same for the same command over the same checkpoint and ``data`` (their
    fingerprint); None where --resume names the run."""
    if args.resume not in (None, "auto"):
        return None
    asked = {**vars(flags), **{key: value for key, value in vars(hps).items() if key not in PROCESS_KEYS}, "data_is": data}
    for name in ("init_from", "tokenizer"):
        if asked.get(name):
            asked[name] = _place(asked[name])
    if flags.init_from:
        asked["checkpoint"] = _digest_of_weights(checkpoint_folder(flags.init_from))
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:20]


def _place(name):
    """The place of what a flag names, however it is written; a hub's name as it is."""
    path = os.path.realpath(os.path.expanduser(name))
    return path if os.path.exists(path) else name


def _digest_of_weights(folder):
    return [sha256(file) for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".bin")
            and not file.name.startswith("training_state")]


def resume_auto(args, world, task, digest):
    """Replace ``--resume auto`` by the newest run of ``task`` in the runs folder that was asked for by the same settings,
    is not finished and has a checkpoint, or by None; true where there is one. If torchrun
    restarts a run that had already finished, this process ends."""
    if args.resume != "auto":
        return False
    args.resume = world.from_main(lambda: _unfinished(args.runs_dir, task, digest))
    if args.resume and (Path(args.resume) / "metrics.json").exists():
        world.print(f"{args.resume}: finished before a process died; nothing is left to do")
        sys.exit(0)
    if args.resume:
        args.set = [setting for setting in args.set if setting.partition("=")[0] in PROCESS_KEYS]
    return args.resume is not None


def _unfinished(runs_dir, task, digest):
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0 and launch() is not None
    for file in sorted(Path(runs_dir).glob(f"{task}-*/config.json"), reverse=True):
        run = file.parent
        finished = (run / "metrics.json").exists()
        if (restarted or not finished) and checkpoints.listed(run / "checkpoints"):
            try:
                config = run_config(run)
                own = config.get("asked") == digest and (not finished or config.get("launch") == launch())
                if own and checkpoints.newest(run / "checkpoints"):
                    return str(run)
            except RunError as fault:
                print(f"passing over a run: {fault}", flush=True)
    return None


def finished_run(runs_dir, task, digest):
    """(held-out scores, folder) of the newest finished run of ``task`` that was asked for by the same settings, or None."""
    for file in sorted(Path(runs_dir).glob(f"{task}-*/metrics.json"), reverse=True):
        try:
            config = run_config(file.parent)
            if config.get("asked") == digest:
                return json.loads(file.read_text(encoding="utf-8"))["dev"], file.parent
        except (RunError, ValueError, KeyError) as fault:
            print(f"passing over a run: {fault}", flush=True)
    return None


def how_to_call(script=None):
    """How to call a script, the running one where none is named, from here."""
    called = Path(os.path.abspath(sys.argv[0]))
    paths = Path(sys.executable or "/python"), called.with_name(script or called.name)
    python, called = (os.path.relpath(path) if path.is_relative_to(os.getcwd()) else str(path) for path in paths)
    return shlex.join(["python" if os.path.isabs(python) else python, called])


@contextmanager
def data_of_run(args):
    """What is wrong with the data of a run that --resume goes on with is told with the way to name another place."""
    try:
        yield
    except DataError as fault:
        if not args.resume:
            raise
        raise DataError(f"{fault}; where the run's data lies elsewhere by now, --data names the place") from None


def stopped(trainer, run, several=False):
    """Say how to go on with a run that a signal has ended, or with all of ``several``; returns the script's exit code."""
    flags = sys.argv[1:] + ["--resume", "auto"] * ("--resume" not in sys.argv) if several else ["--resume", str(run.path)]
    if run.path is not None:
        trainer.world.print(f"stopped at step {trainer.step}; go on with\n  {how_to_call()} {shlex.join(flags)}")
    return 128 + trainer.stopped


def where_it_runs(trainer, run):
    """The words at a run's begin: on what, in what precision, into which folder, from which step."""
    folder = "nothing is saved" if run.path is None else f"run folder {run.path}"
    goes_on = f"; it goes on from step {trainer.step:,} of {trainer.hps.max_steps:,}" if trainer.step else ""
    return f"{trainer.hps.attention} attention, on {trainer.world.device} in {trainer.precision}; {folder}{goes_on}"


def leave_with(main, *faults):
    """Run ``main`` and exit with its code; with code 2 and one line where the user can mend it."""
    threading.excepthook = _of_a_thread
    try:
        code = main()
        distributed.leave()
        sys.exit(code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as fault:
        told, rank = isinstance(fault, (DataError, ModelError, RunError, *faults)), int(os.environ.get("LOCAL_RANK", 0))
        words = str(fault) if told else _advice(fault)
        if words is None:
            raise
        if told and rank:
            time.sleep(10)         # what all processes of a machine found, the first one tells; torchrun then ends the others
        print(f"error: process {rank}: {words}" if rank else f"error: {words}", file=sys.stderr)
        sys.exit(2)


def _of_a_thread(fault):
    """TensorBoard writes in a thread; what the disk does there `Run.log` finds too."""
    if not (isinstance(fault.exc_value, OSError) and fault.exc_value.errno in _DISK_FAULTS):
        threading.__excepthook__(fault)


def _advice(fault):
    """The words on a fault that is the machine's and not the program's; None for any other."""
    if isinstance(fault, BrokenPipeError):
        return "what read the output has ended; go on with --resume"
    if isinstance(fault, RuntimeError) and any(words in str(fault) for words in (
            "out of memory", "can't allocate memory", "ALLOC_FAILED")):
        return ("memory ran out; in training a smaller micro_batch_size takes less, and so does activation_checkpointing=true, "
                "which changes no number and goes with --resume")
    if isinstance(fault, ConnectionError) or isinstance(fault, RuntimeError) and "DataLoader worker" in str(fault):
        return ("a process that builds batches was killed; where memory ran out, --set num_workers with a smaller number "
                "works; go on with --resume")                     # ConnectionError: its tensors could not be fetched any more
    if isinstance(fault, OSError) and fault.errno in _DISK_FAULTS:
        return f"{fault.filename or 'a file or the output'}: {fault.strerror}; what was saved before is untouched"
    return None
