"""A run's folder: settings, environment, log, TensorBoard events and curves.

    runs/pretrain-2026-11-22_11-17-26/  config.json  environment.json  tokenizer.json  tokenizer_config.json
                                        log.jsonl  curves.png
                                        events.out.tfevents.*  checkpoints/
"""
import fcntl
import importlib.util
import json
import logging
import math
import os
import shutil
import signal
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

from albert.files import write_json
from data.tokenizer import save_tokenizer
from trainer import checkpoints, distributed, machine
from trainer.errors import RunError

DEFAULT_CACHE = "~/.cache/albert"
DRAW_EVERY = 10.0                 # seconds, at least, from one picture of the curves to the next


class Run:
    """The folder that one run writes. ``path`` is None for a run that keeps nothing (``--no-save``).

    ``step`` is that of the checkpoint which the run goes on from. Of several processes one ``writes``; ``log`` "wandb"
    logs to Weights & Biases too.
    """

    def __init__(self, path, step=0, writes=True, log=None):
        self.path, self.writes = path, writes and path is not None
        self.records = []
        self._baselines, self._draw_at = None, 0.0                 # what is still to be drawn; when it is time for it
        if not self.writes:
            return
        self._log = _locked_log(path)
        checkpoints.clear(self.checkpoints)
        self._cut_log(step)
        from torch.utils.tensorboard import SummaryWriter           # slow to import

        self._board = SummaryWriter(str(path), purge_step=step + 1 if step else None)
        self._wandb = None
        if log == "wandb":
            import wandb
            try:
                self._wandb = wandb.init(project="albert", name=path.name, id=path.name, resume="allow", dir=path,
                                         config=run_config(path))
            except wandb.errors.Error as error:
                reason = str(error).splitlines()[0].rstrip(".")
                raise RunError(f"--log wandb: {reason}; call wandb login, set WANDB_MODE=offline, or leave --log out") from None

    @property
    def checkpoints(self):
        return self.path / "checkpoints"

    def commands(self):
        """{"command": that of the run} and, where it was gone on with, the last one as "resumed_by"."""
        now = machine.command()
        try:
            first = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))["command"]
        except (OSError, ValueError, KeyError, TypeError):          # deleted or edited since
            first = now
        return {"command": first} if first == now else {"command": first, "resumed_by": now}

    def _cut_log(self, step):
        """Keep the log lines up to ``step``: what came after its checkpoint happens again."""
        kept = 0
        self._log.seek(0)
        for line in self._log:
            try:
                record = json.loads(line)
                if record["step"] > step or record["kind"] not in ("train", "eval") or not (
                        line.isascii() and line.endswith("\n")):
                    break
            except (ValueError, KeyError, TypeError, RecursionError):
                break                                       # cut off by a kill
            self.records.append(record)
            kept += len(line.encode())
        self._log.truncate(kept)

    def log(self, record):
        """Append a record ``{"kind", "step", ...}`` to log.jsonl and TensorBoard."""
        self.records.append(record)
        if not self.writes:
            return
        try:
            self._log.write(json.dumps(record) + "\n")
            self._log.flush()
        except OSError as fault:
            raise RunError(f"{self.path / 'log.jsonl'}: {fault.strerror}; what was saved before is untouched") from None
        for key, value in record.items():
            if key not in ("kind", "step"):
                self._board.add_scalar(f"{record['kind']}/{key}", value, record["step"])
        if self._wandb is not None:
            self._wandb.log({f"{record['kind']}/{key}": value for key, value in record.items() if key != "kind"},
                            step=record["step"])

    def draw(self, baselines):
        """Redraw curves.png: losses and metrics of the last evaluation against tokens; ``baselines``: {label: loss}. Where
        that was done a moment ago, ``close`` does it, or a later call."""
        self._baselines = baselines
        if self.writes and time.monotonic() >= self._draw_at:
            self._draw()

    def _draw(self):
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot
        last = next(record for record in reversed(self.records) if record["kind"] == "eval")
        names = [name for name in last if name not in ("kind", "step", "tokens", "loss")]
        figure, axes = pyplot.subplots(1, len(names), figsize=(4.5 * len(names), 3.6), layout="constrained",
                                       squeeze=False)
        for axis, name in zip(axes[0], names):
            for kind, style in (("train", dict(color="C0", alpha=0.5, marker=".")), ("eval", dict(color="C1", marker="o"))):
                points = [(r["tokens"], r[name]) for r in self.records if r["kind"] == kind and name in r]
                if points:
                    axis.plot(*zip(*points), markersize=3, label={"train": "training", "eval": "held out"}[kind], **style)
            if name == "mlm_loss":
                for label, level in self._baselines.items():
                    axis.axhline(level, linestyle="--", color="gray", label=label)
            over_tokens(axis, name)
            axis.legend()
        temporary = self.path / "curves.tmp.png"
        figure.savefig(temporary, dpi=110)
        os.replace(temporary, self.path / "curves.png")
        pyplot.close(figure)
        self._baselines, self._draw_at = None, time.monotonic() + DRAW_EVERY

    def close(self):
        if self.writes:
            if self._baselines is not None:
                self._draw()
            self._log.close()
            self._board.close()
            if self._wandb is not None:
                self._wandb.finish()


def _locked_log(path):
    """The log of the run in a folder, opened and locked, which the system undoes however we end. RunError where another
    process has locked it."""
    file = path / "log.jsonl"
    try:
        log = open(file, "a+", encoding="utf-8", errors="replace",
                   opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))
    except OSError as fault:
        raise RunError(f"{file}: {'a link' if file.is_symlink() else fault.strerror}") from None
    try:
        fcntl.lockf(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(f"{path}: another process is training in this folder") from None
    except OSError as fault:                                        # as some clusters mount Lustre
        raise RunError(f"{path}: its file system locks no files ({fault.strerror}); name another by --runs-dir") from None
    return log


def newest_checkpoint(path, key, digest):
    """Path and state of the newest good checkpoint of a run in which no other process is training. RunError where its
    config.json has not this ``digest`` of the data under ``key``."""
    if run_config(path).get(key) != digest:
        raise RunError(f"--resume {path}: the data has changed since the run began, or how it is read; name the old by "
                       "--data, or start a new run without --resume")
    _locked_log(Path(path)).close()
    return checkpoints.newest(Path(path) / "checkpoints")


def over_tokens(axis, name):
    """Title, ticks and grid of the curves of one score."""
    from matplotlib.ticker import EngFormatter, MaxNLocator
    axis.set(title=name.replace("_", " ") + " (nats)" * name.endswith("loss"), xlabel="tokens")
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.grid(alpha=0.3)


def run_config(folder):
    """The config.json of a run's folder. Raises RunError where there is none."""
    file = Path(folder) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise RunError(f"{folder}: no run there (it has no config.json)") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{file}: {error}") from None
    if not isinstance(config, dict) or not {"task", "model", "seed"} <= config.keys():
        raise RunError(f"{file}: not a run's settings; name the run's own folder, such as runs/pretrain-...")
    return config


def settings_of(folder, config, defaults):
    """The values that a run's config.json has for the keys of ``defaults``, the default where it has none. Raises
    RunError for a value that no such key can have."""
    values = {key: config.get(key, default) for key, default in defaults.items()}
    for key, value in values.items():
        if value != defaults[key] and not _fits(value, defaults[key]):
            raise RunError(f"{Path(folder) / 'config.json'}: {key}={repr(value)[:60]}: not a value of that key")
    return SimpleNamespace(**values)


def _fits(value, default):
    """Whether a key with this default may have the value; where it is None or a list, a number, a text or texts."""
    if isinstance(value, list):
        return not isinstance(default, (bool, int, float, str)) and all(isinstance(item, str) for item in value)
    if isinstance(value, int) and abs(value) >= 1 << 63 or isinstance(value, float) and not math.isfinite(value):
        return False
    kinds = {bool: bool, int: int, str: str, float: (int, float)}
    return isinstance(value, kinds.get(type(default), (int, float, str)))


def begin(args):
    """Set up this process and refuse a --runs-dir that it needs and could not write: its World."""
    if not args.no_save and args.resume in (None, "auto") and not getattr(args, "dry_run", False):
        check_parent(args.runs_dir)
    if args.log == "wandb" and importlib.util.find_spec("wandb") is None:
        raise RunError("--log wandb: the package is not installed; pip install wandb, or leave --log out")
    machine.keep_freed_memory()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        machine.end_with_parent(signal.SIGTERM)                 # torchrun's processes would outlive it
    world = distributed.join(args.cpu)
    if not world.is_main:
        logging.getLogger("albert").setLevel(logging.ERROR)               # the first process gives the warnings
    return world


def cache_of(args):
    """The folder of --cache-dir, absolute."""
    return os.path.abspath(os.path.expanduser(args.cache_dir or DEFAULT_CACHE))


def launch():
    """The id that torchrun gave to this launch and keeps when it restarts it (--rdzv-id, or drawn by --standalone); None
    without one."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if name == "none" else name


def check_parent(parent):
    """RunError where the folder that runs are made in could not be made or written."""
    existing = Path(parent).absolute()
    while not existing.exists():
        existing = existing.parent
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        reason = "not writable" if existing.is_dir() else "a file"
        raise RunError(f"--runs-dir {parent}: {existing} is {reason}; name a folder that can be written")


def open_run(args, task, config, trainer, state):
    """The run that ``trainer`` writes: the one of --resume, cut to the step of the checkpoint with this ``state``; with
    --no-save one without a folder; else a new folder ``runs-dir/task-<time>`` with the tokenizer and a config.json of
    ``config`` and the flags that a resumed run goes on under. One process makes it; the others learn its path."""
    world = trainer.world
    if args.resume:
        run = Run(Path(args.resume), state["step"], world.is_main, args.log)
        stored = run_config(run.path)
        # where the next resuming finds the data, and a restart of this launch the run that it has finished
        now = stored | {name: config[name] for name in ("data", "dev") if name in stored} | {"launch": launch()}
        if world.is_main and now != stored:
            write_json(run.path / "config.json", now)
        return run
    if args.no_save:
        return Run(None)
    config = {**config, "cpu": args.cpu, "cache_dir": cache_of(args), "log": args.log, "launch": launch()}
    path = world.from_main(lambda: _new_folder(args.runs_dir, task, config, machine.environment(world.device)))
    try:
        run = Run(path, writes=world.is_main, log=args.log)
    except RunError:
        shutil.rmtree(path)
        raise
    if world.is_main:
        save_tokenizer(trainer.tokenizer, path, trainer.model.config.max_position_embeddings)
    return run


def _new_folder(parent, task, config, environment):
    name = f"{task}-{datetime.now():%Y-%m-%d_%H-%M-%S}"
    try:
        Path(parent).mkdir(parents=True, exist_ok=True)
        path = _unused(Path(parent) / name)
        write_json(path / "config.json", config)
        write_json(path / "environment.json", environment)
    except OSError as error:
        raise RunError(f"--runs-dir {parent}: {error.strerror}") from None
    return path


def _unused(path):
    """Make the folder ``path``, or ``path-2`` and so on where it exists."""
    candidate, number = path, 1
    while True:
        try:
            candidate.mkdir()
            return candidate
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")
