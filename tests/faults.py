"""Faults at chosen moments of a training process. A moment is a number of calls of Python functions: the same run comes
to it at the same place, wherever and however fast it runs."""
import errno
import io
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import forkserver
from pathlib import Path

from conftest import ROOT

CONTEXT = multiprocessing.get_context("forkserver")     # starts each process from one that has imported everything
CONTEXT.set_forkserver_preload(["main_modules"])
KINDS = ("kill", "terminate", "full disk", "failed rename", "truncated", "bit flipped", "worker killed", "rank killed")


def _start_server():
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])        # it takes no other path over
    forkserver.ensure_running()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


class _Counter:
    """Counts calls of Python functions and does something at one of them."""

    def __init__(self, moment, action):
        self.count, self.moment, self.action = 0, moment, action

    def __call__(self, frame, event, argument):
        if event == "call":
            self.count += 1
            if self.count == self.moment:
                self.action()


def _out_of_order(error, *names):
    """Let the functions ``module.name`` fail from now on."""
    def fail(*args, **kwargs):
        raise OSError(error, os.strerror(error), str(args[0]))
    for module, name in names:
        setattr(module, name, fail)


def _action(kind):
    from trainer import checkpoints
    if kind in ("kill", "truncated", "bit flipped", "rank killed"):
        return lambda: os.kill(os.getpid(), signal.SIGKILL)
    if kind == "terminate":
        return lambda: os.kill(os.getpid(), signal.SIGTERM)
    if kind == "full disk":
        return lambda: _out_of_order(errno.ENOSPC, (checkpoints, "save_file"), (os, "fsync"))
    if kind == "failed rename":
        return lambda: _out_of_order(errno.EIO, (os, "replace"))
    if kind == "worker killed":
        def kill_workers():
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
        return kill_workers
    return None                                             # no fault: moment is 0, which never comes


def _train(script, arguments, report, kind, moment, rank):
    """In a process of its own: the script with a fault. Writes its output, and how many calls it made."""
    os.environ.update(rank, OMP_NUM_THREADS="1")
    os.setsid()
    sys.path[:0] = [str(ROOT)]
    sys.argv = [script, *arguments]
    counter = _Counter(moment, _action(kind))
    from trainer.loop import Trainer
    from trainer.run import Run
    fit = Trainer.fit

    def counted(self, run):
        sys.setprofile(counter)
        try:
            return fit(self, run)
        finally:
            sys.setprofile(None)

    Trainer.fit, Run.draw = counted, lambda run, baselines: None        # drawing would be most of the calls
    output, code = io.StringIO(), None
    with redirect_stdout(output), redirect_stderr(output):
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as leaving:
            code = leaving.code
        finally:
            Path(report).write_text(f"{counter.count}\n{output.getvalue()}")
    sys.stdout.flush()
    os._exit(code or 0)


def train(arguments, folder, kind=None, moment=0, ranks=1, victim=0, timeout=120, script="main-pretrain.py"):
    """Run a training script on ``ranks`` processes, one of which, ``victim``, meets the fault: [(code, calls, output)].
    ``calls`` and ``output`` are None of a process that was killed."""
    _start_server()
    port, reports, processes = str(random.SystemRandom().randint(20_000, 60_000)), [], []
    for number in range(ranks):
        rank = dict(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(ranks), MASTER_ADDR="localhost",
                    MASTER_PORT=port) if ranks > 1 else {}
        reports.append(folder / f"report-{number}")
        reports[-1].unlink(missing_ok=True)
        processes.append(CONTEXT.Process(target=_train, args=(
            script, arguments, str(reports[-1]), kind, moment if number == victim else 0, rank)))
        processes[-1].start()
    ended = []
    for process, report in zip(processes, reports):
        process.join(timeout)
        assert process.exitcode is not None, "still running"
        calls, output = report.read_text().split("\n", 1) if report.exists() else (None, None)
        ended.append((process.exitcode, calls and int(calls), output))
    return ended


def damage(run, kind, rng):
    """Truncate a file of the newest checkpoint of ``run``, or flip one of its bits."""
    found = sorted((run / "checkpoints").glob("step-*[0-9]"))
    if not found:
        return
    file = rng.choice(sorted(found[-1].iterdir()))
    data = bytearray(file.read_bytes())
    if kind == "truncated":
        data = data[:rng.randrange(len(data))]
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def remove(path):
    """Delete a file or folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
