"""What the training scripts share: the flags of the process, resuming under the run's own settings, leaving."""
import errno
import os
import shlex
import sys
from pathlib import Path

from albert.errors import ModelError
from data.errors import DataError
from trainer.errors import RunError

DEFAULT_CACHE = "~/.cache/albert"
# Keys that change nothing of what is learned: a resumed run may go on with others.
PROCESS_KEYS = ("num_workers", "log_every", "save_every", "keep_checkpoints")


def add_process_flags(parser):
    """The flags that say how this process runs, not what is trained."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of hps.py")
    parser.add_argument("--resume", default=None, metavar="RUN", help="go on with the run in this folder")
    parser.add_argument("--runs-dir", default="runs", help="where the run's folder is made (default: runs)")
    parser.add_argument("--cache-dir", default=None,
                        help=f"tokenised text and trained tokenizers (default: {DEFAULT_CACHE}, or the resumed run's)")
    parser.add_argument("--cpu", action="store_true", default=False, help="leave the GPU alone")
    parser.add_argument("--tqdm-off", action="store_true", default=False, help="plain lines instead of a bar")
    parser.add_argument("--no-save", action="store_true", default=False, help="write nothing but the cache")


def refuse_changes(folder, config, asked):
    """Raise RunError for a flag or key of ``asked`` that differs from the run's ``config`` and may not."""
    for name, value in asked.items():
        if value != config.get(name, value) and name not in PROCESS_KEYS:
            raise RunError(f"--resume {folder}: the run has {name}={config[name]}, not {value}; leave it out, "
                           f"or start a new run without --resume")


def how_to_call(script=None):
    """How to call a script, the running one where none is named, from here."""
    python = os.path.relpath(sys.executable) if sys.executable.startswith(os.getcwd()) else "python"
    return f"{python} {script or Path(sys.argv[0]).name}"


def how_to_resume(trainer, run):
    return f"stopped at step {trainer.step}; go on with\n  {how_to_call()} --resume {shlex.quote(str(run.path))}"


def leave_with(main, *faults):
    """Run ``main`` and exit with its code; with code 2 and one line where the user can mend it."""
    try:
        sys.exit(main())
    except (DataError, ModelError, RunError, *faults) as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)
    except OSError as fault:
        if fault.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: {fault.filename or 'the run folder'}: {fault.strerror}; what was saved before is untouched",
              file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
