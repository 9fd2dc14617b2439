"""Checkpoints: folders that are written whole or not at all, and read only where every byte is as written.

    checkpoints/step-0005000/  model.safetensors  config.json  tokenizer.json  tokenizer_config.json
                               training_state.safetensors  training_state.json

The JSON holds what is not a tensor (step, data position, totals of the log) and the SHA-256 of every other file.
Nothing is pickled.
"""
import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from albert.errors import ModelError
from data.errors import DataError
from data.tokenizer import save_tokenizer
from trainer.errors import RunError

_STATE = "training_state.json"


def write_json(path, value):
    """Write ``value`` to a temporary name beside ``path`` and rename it."""
    temporary = Path(f"{path}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save(folder, step, model, tokenizer, optimizers, state):
    """Save the checkpoint of ``step`` under ``folder`` and return its path; ``state`` is what JSON can hold.

    Raises RunError when the disk is full or not writable; the folder then is as it was.
    """
    path = folder / f"step-{step:07d}"
    temporary = folder / f"{path.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary)
        save_tokenizer(tokenizer, temporary)
        tensors, groups = _flatten(optimizers)
        save_file(tensors, temporary / "training_state.safetensors")
        files = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / _STATE, {**state, "step": step, "optimizers": groups, "sha256": files})
        for file in temporary.iterdir():
            _sync(file)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
        _sync(folder)
    except (OSError, SafetensorError, ModelError, DataError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"could not save {path}: {reason}; earlier checkpoints are untouched") from None
    return path


def newest(folder):
    """(path, state) of the newest checkpoint under ``folder`` whose files are all as they were written.

    Each damaged one that is passed over is named on the way. Raises RunError where none is left.
    """
    for path in reversed(listed(folder)):
        try:
            return path, verified_state(path)
        except RunError as fault:
            print(f"passing over a damaged checkpoint: {fault}", flush=True)
    raise RunError(f"{folder}: no complete checkpoint to resume from; start a new run without --resume")


def listed(folder):
    """The checkpoints under ``folder``, oldest first."""
    return sorted(path for path in Path(folder).glob("step-*") if path.suffix != ".tmp" and path.is_dir())


def verified_state(path):
    """The JSON state of a checkpoint, after every file of it was compared with its checksum."""
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        for name, expected in state["sha256"].items():
            if Path(name).name != name or _sha256(path / name) != expected:
                raise RunError(f"{path / name} is not as it was written (its SHA-256 differs)")
    except OSError as error:
        raise RunError(f"{error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path / _STATE} is not the state of a checkpoint") from None
    return state


def restore_optimizers(path, optimizers, state):
    """Load the optimisers' tensors and settings from a checkpoint that was verified."""
    tensors = load_file(path / "training_state.safetensors")
    for number, (optimizer, groups) in enumerate(zip(optimizers, state["optimizers"], strict=True)):
        slots = {}
        for name, tensor in tensors.items():
            owner, parameter, slot = name.split("/")
            if int(owner) == number:
                slots.setdefault(int(parameter), {})[slot] = tensor
        optimizer.load_state_dict({"state": slots, "param_groups": groups})


def prune(folder, keep, best_step):
    """Delete all but the newest ``keep`` checkpoints and the one of ``best_step`` (None before any evaluation)."""
    for path in listed(folder)[:-keep or None]:
        if best_step is None or path.name != f"step-{best_step:07d}":
            shutil.rmtree(path, ignore_errors=True)


def _flatten(optimizers):
    tensors, groups = {}, []
    for number, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        groups.append(state["param_groups"])
        for parameter, slots in state["state"].items():
            for slot, value in slots.items():
                tensors[f"{number}/{parameter}/{slot}"] = torch.as_tensor(value).contiguous()
    return tensors, groups


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
