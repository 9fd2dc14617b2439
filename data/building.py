"""Files and folders that are whole or not there; those of a cache are made by one of several processes at once."""
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from pathlib import Path

from data.errors import DataError


@contextlib.contextmanager
def whole(path: Path):
    """A temporary path beside `path` to write to, which then takes its name: `path` is old or new, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)                    # a link would be written through
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(cache_dir: Path):
    """A folder for one build, removed afterwards unless renamed; first those of dead processes go.

    A living process holds a lock in its folder, which the system drops however the process ends.
    """
    folder = cache_dir / f"building-{uuid.uuid4().hex}"
    with disk_errors(cache_dir), _locked(cache_dir / "lock"):
        for other in cache_dir.glob("building-*"):
            # in use; gone by itself meanwhile; another user's
            with contextlib.suppress(BlockingIOError, FileNotFoundError, PermissionError), \
                    _locked(other / "lock", fcntl.LOCK_NB):
                shutil.rmtree(other, ignore_errors=True)
        folder.mkdir()
        lock = contextlib.ExitStack()
        lock.enter_context(_locked(folder / "lock"))
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, path: Path, is_whole) -> None:
    """Rename a finished build, unless another process was first with the same; what is not whole gives way."""
    with disk_errors(path.parent), _locked(path.parent / "lock"):
        if not is_whole(path):
            shutil.rmtree(path, ignore_errors=True)
            (folder / "lock").unlink()
            folder.rename(path)


def digest_of_files(folder: Path, names) -> str:
    """Of their contents, one after the other."""
    digest = hashlib.sha256()
    for name in names:
        with open(folder / name, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def disk_errors(cache_dir: Path):
    """A DataError in place of an OSError, with what would work."""
    try:
        yield
    except OSError as error:
        advice = ("free some space there, or name another folder by --cache-dir"
                  if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else
                  "name a folder that can be written by --cache-dir")
        raise DataError(f"{error.filename or cache_dir}: {error.strerror} while preparing the text; "
                        f"{advice}") from None


@contextlib.contextmanager
def _locked(path: Path, flags: int = 0):
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | flags)
        yield
