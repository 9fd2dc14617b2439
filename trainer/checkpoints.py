"""Checkpoints: folders that are written whole or not at all, and read only where every byte is as written.

    checkpoints/step-0005000/  model.safetensors  config.json  tokenizer.json  tokenizer_config.json
                               training_state.safetensors  training_state.json  SHA256SUMS

The JSON holds what is not a tensor (step, data position, totals of the log); SHA256SUMS, written last, the checksum of
every other file. Nothing is pickled.
"""
import json
import os
import shutil
from contextlib import contextmanager
from functools import partial

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from albert.checksums import SUMS, check_sums, write_sums
from albert.errors import ModelError
from albert.files import sync, write_json, write_whole
from albert.pretrained import listed, save_config
from data.errors import DataError
from data.tokenizer import save_tokenizer
from trainer.errors import RunError

_STATE = "training_state.json"


@contextmanager
def _replaced(path):
    """A folder's name to write a checkpoint under, which then gets its checksums and the place ``path``. One that is there
    keeps its name until the new one is complete, and is deleted after that."""
    temporary, old = path.with_name(f"{path.name}.tmp"), path.with_name(f"{path.name}.old.tmp")
    try:
        yield temporary
        write_sums(temporary)
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        if old.exists() and not path.exists():                            # the new one did not get the name
            os.replace(old, path)
        clear(path.parent)


def save(folder, step, model, tokenizer, optimizers, state):
    """Save the checkpoint of ``step`` under ``folder`` and return its path; ``state`` is what JSON can hold.

    Raises RunError when the disk is full or not writable; the folder then is as it was.
    """
    path = folder / f"step-{step:07d}"
    try:
        with _replaced(path) as temporary:
            temporary.mkdir(parents=True)
            model.save_pretrained(temporary)
            save_tokenizer(tokenizer, temporary, model.config.max_position_embeddings)
            write_whole(temporary / "training_state.safetensors", partial(save_file, _tensors(optimizers)))
            write_json(temporary / _STATE, {**state, "step": step})
    except (OSError, SafetensorError, ModelError, DataError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"could not save {path}: {reason}; earlier checkpoints are untouched") from None
    return path


def rewrite_config(path, model):
    """Replace the config.json of a checkpoint, and its checksum with it, by that of ``model``."""
    with _replaced(path) as temporary:
        temporary.mkdir()
        for file in path.iterdir():
            if file.name != SUMS and file.name[0] != ".":                # not what desktops leave
                shutil.copyfile(file, temporary / file.name)
        save_config(model, temporary)


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


def verified_state(path):
    """The JSON state of a checkpoint, after every file of it was compared with its checksum."""
    try:
        check_sums(path)
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        counts = [state["step"], state["tokens"], *(state["position"][name] for name in ("epoch", "sample")),
                  state["best"]["step"] or 0]
        if not all(isinstance(value, int) and 0 <= value < 1 << 62 for value in counts):
            raise ValueError
        if path.name != f"step-{state['step']:07d}":
            raise ValueError
        for value in (*state["window"].values(), state["best"]["score"], state["best"]["loss"], state["scaler"]["scale"],
                      state["scaler"]["good"]):
            if not isinstance(value, (int, float)):
                raise ValueError
            float(value)
    except ModelError as fault:
        raise RunError(str(fault)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise RunError(f"{path / _STATE} is not the state of a checkpoint") from None
    return state


def restore_optimizers(path, optimizers):
    """Load the optimisers' tensors from a checkpoint that was verified. Raises RunError where they do not fit."""
    file = path / "training_state.safetensors"
    try:
        slots = [{} for _ in optimizers]
        for name, tensor in load_file(file).items():
            owner, parameter, slot = name.split("/")
            slots[int(owner)].setdefault(int(parameter), {})[slot] = tensor
        for optimizer, state in zip(optimizers, slots):
            params = [p for group in optimizer.param_groups for p in group["params"]]
            names = {"momentum_buffer"} if isinstance(optimizer, torch.optim.Muon) else {"step", "exp_avg", "exp_avg_sq"}
            for number, tensors in state.items():
                shape = params[number].shape
                if tensors.keys() != names or not all(tensor.is_floating_point() and tensor.shape == (
                        () if slot == "step" else shape) for slot, tensor in tensors.items()):
                    raise ValueError
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (SafetensorError, OSError, ValueError, IndexError):
        raise RunError(f"{file}: not the optimisers' state of this run") from None


def prune(folder, keep, best_step, step):
    """Delete all but the newest ``keep`` checkpoints up to ``step`` and the one of ``best_step`` (None before any
    evaluation). Those of later steps are damaged ones that the run was not resumed from."""
    found = {int(path.name[5:]): path for path in listed(folder)}
    newest = [number for number in reversed(found) if number <= step][:keep]
    for number, path in found.items():
        if number not in (*newest, best_step):
            _remove(path)


def _remove(path):
    """Delete a checkpoint: it loses its name before the first of its files."""
    if path.exists():
        nameless = path.with_name(f"{path.name}.old.tmp")
        os.replace(path, nameless)
        shutil.rmtree(nameless, ignore_errors=True)


def clear(folder):
    """Delete what an interrupted save or deletion has left."""
    for left in folder.glob("step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def _tensors(optimizers):
    return {f"{number}/{parameter}/{slot}": value.contiguous()
            for number, optimizer in enumerate(optimizers)
            for parameter, slots in optimizer.state_dict()["state"].items() for slot, value in slots.items()}
