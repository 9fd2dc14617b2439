"""Weights as they lie on disk, in safetensors or PyTorch's format, and matched to a model's."""

import logging
import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from albert.errors import ModelError
from albert.files import read_json
from albert.names import disk_name, plain_name

logger = logging.getLogger("albert")

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                "pytorch_model.bin.index.json")
# What other models than the one being loaded have on top of the encoder: left aside without a word.
OTHER_HEADS = re.compile(r"(albert\.|bert\.|extended\.)*"
                         r"(pooler|predictions|sop_classifier|cls|classifier|qa_outputs|\w+_head)\.")


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder by their names on disk. Raises ModelError, naming the file."""
    files = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not files:
        raise ModelError(f"{folder}: no weights here; expected one of {', '.join(WEIGHT_FILES)}")
    if files[0].suffix != ".json":
        return read_weight_file(files[0])
    try:
        shards = sorted(set(read_json(files[0])["weight_map"].values()))
    except (KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{files[0]}: not an index of weight files") from error
    weights, suffix = {}, Path(files[0].name.removesuffix(".index.json")).suffix
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard or Path(shard).suffix != suffix:
            raise ModelError(f"{files[0]}: names {shard!r}, which is not a {suffix} file of this folder")
        if not (folder / shard).is_file():
            raise ModelError(f"{files[0]}: names {shard}, which is not in the folder")
        weights |= read_weight_file(folder / shard)
    return weights


def read_weight_file(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as opened:
                expected = (opened.metadata() or {}).get("checksum")
            weights = load_file(file)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: damaged or not safetensors: {error}") from error
        if expected is not None and expected != str(checksum(weights.values())):
            raise ModelError(f"{file}: damaged: the weights do not match the checksum they were saved with")
        return weights
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except UnpicklingError as error:
        raise ModelError(f"{file}: not loaded, since it would unpickle more than tensors or is damaged; "
                         "convert it to model.safetensors where you trust it") from error
    except Exception as error:  # of damaged bytes the unpickler raises whatever it stumbles over
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ModelError(f"{file}: damaged or not a PyTorch file: {reason}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ModelError(f"{file}: expected a state dictionary of tensors")
    return weights


def relabelled(stored: dict[str, torch.Tensor], before: dict | None, after: dict) -> dict[str, torch.Tensor]:
    """The weights with the classifier's rows in the order of the labels `after`, and without a classifier of others than
    these. Labels without a name (LABEL_0, ...) may stand for any."""
    if not before or all(name == f"LABEL_{index}" for index, name in before.items()):
        return stored
    classifier = [name for name in stored if re.search(r"(^|\.)classifier\.", name)]
    if sorted(before.values()) != sorted(after.values()):
        return {name: weight for name, weight in stored.items() if name not in classifier}
    places = {name: index for index, name in before.items()}
    order = [places[after[index]] for index in sorted(after)]
    return stored | {name: stored[name][order] for name in classifier if stored[name].shape[:1] == (len(order),)}


def match_weights(model: nn.Module, stored: dict[str, torch.Tensor], folder: Path,
                  new_labels: bool) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Weights by their names in `model`, and the heads that the stored ones lack: with `new_labels` also a classifier of
    another shape.

    Raises ModelError for a missing encoder weight, one of another shape, and an unexpected encoder weight.
    """
    config = model.config
    available = {plain_name(name, config.model_type): name for name in stored}
    weights, missing, renewed = {}, [], set()
    bare = type(model).__name__ == "Albert"
    for name, parameter in model.state_dict().items():
        known = disk_name(f"albert.{name}" if bare else name, config)
        source = available.pop(known, None)
        if source is None:
            missing.append((name, known))
        elif stored[source].shape != parameter.shape:
            if new_labels and name.startswith("classifier."):
                renewed.add("classifier")
                continue
            raise ModelError(f"{folder}: {source} is {tuple(stored[source].shape)}, but the configuration implies "
                             f"{tuple(parameter.shape)}")
        elif not stored[source].is_floating_point():
            raise ModelError(f"{folder}: {source} is {stored[source].dtype}, expected floating point")
        else:
            weights[name] = stored[source] if stored[source].itemsize >= 4 else stored[source].float()
    for name, known in missing:
        head = re.match(r"(albert\.)?(pooler|\w+_head|classifier)(?=\.)", name)
        if head is None or any(given.startswith(head[0] + ".") for given in weights):
            raise ModelError(f"{folder}: no weight {known}, which config.json implies "
                             f"({len(missing)} missing in all)")
        renewed.add(head[0])
    available.pop(None, None)
    unexpected = sorted(available.values())
    for name in unexpected:
        if re.search(r"(^|\.)(embeddings|encoder)\.", name):
            raise ModelError(f"{folder}: weight {name} has no place in the model that config.json describes "
                             f"({len(unexpected)} such in all)")
    unknown = [name for name in unexpected if not OTHER_HEADS.match(name)]
    if unknown:
        logger.warning("%s: not used: %s", folder, ", ".join(unknown))
    return weights, sorted(renewed)


def checksum(weights) -> int:
    """Sum of all tensors' bytes as 64-bit words, modulo 2⁶⁴: finds any flipped bit at the speed of memory."""
    total = 0
    for weight in weights:
        flat = weight.reshape(-1).view(torch.uint8)
        words = len(flat) // 8 * 8
        aligned = flat[:words] if flat.storage_offset() % 8 == 0 else flat[:words].clone()
        total += int(aligned.view(torch.int64).sum()) + int.from_bytes(bytes(flat[words:].tolist()), "little")
    return total % 2**64
