"""Files of JSON, and files that are written whole or not at all (those of data/, which knows no models: `data.building`)."""

import json
import os
from pathlib import Path

from albert.errors import ModelError


def read_json(file: Path) -> dict:
    """The object in a JSON file. Raises ModelError for anything else."""
    try:
        mapping = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:       # the latter: nested too deep
        raise ModelError(f"{file}: not JSON: {error}") from None
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}") from None
    if not isinstance(mapping, dict):
        raise ModelError(f"{file}: expected a JSON object")
    return mapping


def write_json(file: Path, value):
    """Write `value` into a JSON file, whole or not at all."""
    text = json.dumps(value, indent=2) + "\n"
    write_whole(file, lambda path: path.write_text(text, encoding="utf-8"))


def write_whole(file: Path, write):
    """Let `write` write a temporary file beside `file`, in a folder that is made where there is none, then rename it: `file`
    is old or new, never half."""
    temporary = file.with_name(file.name + ".tmp")
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)                    # a link would be written through
    try:
        temporary.touch()
        mode = temporary.stat().st_mode                  # as the umask has it; safetensors' own files are the owner's alone
        write(temporary)
        os.chmod(temporary, mode)
        sync(temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path):
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
