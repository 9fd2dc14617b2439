"""Datasets of plain files on the 🤗 hub."""
from data.errors import DataError
from data.files import first_line


def load_split(repository, configuration, split, place, what="files"):
    """The rows of a split; DataError that begins with ``place`` and names local ``what`` as the way out."""
    from datasets import load_dataset

    try:
        return load_dataset(*filter(None, (repository, configuration)), split=split)
    except Exception as error:  # the hub's faults have no common class
        raise DataError(f"{place} cannot be loaded from the hub ({first_line(error)}); "
                        f"for {what} on this machine: --data FOLDER") from error
