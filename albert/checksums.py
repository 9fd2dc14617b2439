"""SHA256SUMS, the checksums of a folder's files in the format of the command ``sha256sum``."""

import hashlib
from pathlib import Path

from albert.errors import ModelError
from albert.files import sync

SUMS = "SHA256SUMS"


def write_sums(folder: Path):
    """Write the checksums of all files of `folder`, and have everything on the disk: what is last to be written."""
    lines = [f"{sha256(file)}  {file.name}\n" for file in sorted(folder.iterdir())]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    for file in (*folder.iterdir(), folder):
        sync(file)


def check_sums(folder: Path, leave_out: tuple[str, ...] = ()):
    """Raise ModelError, naming the file, unless `folder` holds the files of its SHA256SUMS and no others, each as it
    was written. Files to `leave_out` are not read."""
    try:
        text = (folder / SUMS).read_bytes().decode()
        *lines, end = text.split("\n")
        if end:
            raise ModelError(f"{folder / SUMS} is not as it was written")
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        present = {file.name for file in folder.iterdir() if file.name[0] != "."} - {SUMS}     # without what desktops leave
        if different := present.symmetric_difference(sums):
            raise ModelError(f"{folder / min(different)} is {'not in' if min(different) in present else 'missing, see'} "
                             f"{SUMS}")
        for name in sorted(present.difference(leave_out)):
            if sha256(folder / name) != sums[name]:
                raise ModelError(f"{folder / name} is not as it was written (its SHA-256 differs)")
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ModelError(f"{folder / SUMS} is not as it was written") from None


def sha256(file: Path) -> str:
    if file.exists() and not file.is_file():
        raise ModelError(f"{file}: not a regular file")
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
