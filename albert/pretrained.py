"""Models from folders and into folders: config.json and model.safetensors, laid out as by 🤗 Transformers."""

import json
import logging
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from albert.attention.convolution import ValueConvolution
from albert.checksums import SUMS, check_sums
from albert.config import AlbertConfig
from albert.errors import ModelError
from albert.names import ARCHITECTURES, EXTENDED_SUFFIX, disk_name, expressible, plain_name

logger = logging.getLogger("albert")

# Keys of the configuration that from_pretrained can change: no weight of the encoder depends on them (Linformer's on
# num_landmarks).
CHANGEABLE = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob",
              "num_landmarks", "pinv_iterations", "pinv_init", "attention_window", "block_size", "blocks_per_row",
              "sentence_objective", "num_labels", "id2label", "problem_type")

_OTHER_NAMES = {"gelu_pytorch_tanh": "gelu_new", "gelu_python": "gelu", "swish": "silu"}       # of activations, in Transformers
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                "pytorch_model.bin.index.json")


# What other models than the one being loaded have on top of the encoder: left aside without a word.
OTHER_HEADS = re.compile(r"(albert\.|bert\.|extended\.)*"
                         r"(pooler|predictions|sop_classifier|cls|classifier|qa_outputs|\w+_head)\.")


class PretrainedModel(nn.Module):
    """Gives a model `from_pretrained` and `save_pretrained`; the model's only other duty is its `config`.

    `finetuned`: what a fine-tuning has settled beside the weights, see `finetuned`; config.json keeps it.
    """

    config: AlbertConfig
    finetuned: Mapping = MappingProxyType({})

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, **changes):
        """Read a model, in evaluation mode, in float32 (float64 stays).

        path: a run folder (its newest undamaged checkpoint), a checkpoint folder, or a folder or hub name in
        the Hugging Face layout. changes: configuration keys that differ from the folder's, out of
        `CHANGEABLE`; with other labels than the folder's, or where its head is of another task, a classifier is begun
        anew, with the same labels in another order it gives its answers in that one. A head that the folder lacks is
        initialised, which is logged; `anew` names all such. On CPU the weights are the file's own pages.

        Raises ModelError for a folder without a model, an unreachable hub, damaged files, and weights that
        are missing, unexpected or of another shape than the configuration implies.
        """
        folder = checkpoint_folder(path)
        if folder == Path(os.path.expanduser(path)):              # the checkpoint of a run was checked as it was chosen
            try:
                _check_model(folder)
            except ModelError as fault:
                raise ModelError(f"{fault}; if you have changed it, delete {SUMS}") from None
        config = read_config(folder, **changes)
        with torch.device("meta"):
            model = cls(config)
        new_labels = not {"num_labels", "id2label"}.isdisjoint(changes)
        stored = read_weights(folder)
        classifier = any(name.startswith("classifier.") for name in stored)
        if head_of(folder, stored) not in ("", cls.__name__.rpartition("For")[2].lower()):         # another head's classifier
            stored = {name: weight for name, weight in stored.items() if not name.startswith("classifier.")}
        else:
            model.finetuned = finetuned(folder)
        if "id2label" in changes:
            stored = relabelled(stored, read_config(folder).id2label, config.id2label)
        weights, model.anew = match_weights(model, stored, folder, new_labels)
        model.load_state_dict(weights, strict=False, assign=True)
        for name in model.anew:
            model.get_submodule(name).to_empty(device="cpu")
            initialize(model.get_submodule(name), config)
        if model.anew:
            other = classifier and model.anew == ["classifier"]
            why = "of other labels or of another task" if other else "not in the checkpoint"
            logger.warning("%s: %s %s, initialised anew", folder, ", ".join(model.anew), why)
        return model.eval()

    def save_pretrained(self, folder: str | os.PathLike):
        """Write config.json and model.safetensors, each whole or not at all. Raises ModelError on failure."""
        folder, config = Path(folder), self.config
        prefix = "" if type(self).__name__ == "Albert" else f"{config.model_type}."
        weights = {}
        for name, weight in self.state_dict().items():
            known = disk_name(name if prefix else f"albert.{name}", config)
            in_encoder = expressible(config) and (not prefix or name.startswith("albert."))
            weights[prefix + known if in_encoder else known] = weight.detach().cpu().contiguous()
        metadata = {"format": "pt", "checksum": str(checksum(weights.values()))}
        try:
            write_whole(folder / "model.safetensors", lambda path: save_file(weights, path, metadata))
            save_config(self, folder)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{folder}: can't write the model: {error}") from error


def initialize(module: nn.Module, config: AlbertConfig):
    """Draw every matrix from a normal distribution of initializer_range, the filters of a convolution of width k uniformly
    from ±1/√k (as PyTorch's Conv2d, and so Nyströmformer's release); biases 0, LayerNorm the identity."""
    if any(weight.is_meta for weight in module.parameters()):
        return  # to be filled from a file
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif weight.ndim == 1:
                weight.fill_(1.0)
            else:
                weight.normal_(std=config.initializer_range)
        for part in module.modules():
            if isinstance(part, nn.Embedding) and part.padding_idx is not None:
                part.weight[part.padding_idx] = 0
            elif isinstance(part, ValueConvolution):
                part.weight.uniform_(-1, 1).div_(part.weight.shape[1] ** 0.5)


def checkpoint_folder(path: str | os.PathLike) -> Path:
    """The folder with the model that `path` names; see `PretrainedModel.from_pretrained`.

    Raises ModelError where there is none.
    """
    folder = Path(os.path.expanduser(path))
    try:
        folder.exists()
    except OSError as error:                                 # a name that is too long, for example
        raise ModelError(f"{str(path)[:80]}: {error.strerror}") from None
    if (folder / "checkpoints").is_dir():
        steps = {int(step[1]): child for child in (folder / "checkpoints").iterdir()
                 if (step := re.fullmatch(r"step-(\d+)", child.name)) and (child / "config.json").is_file()
                 and (child / "model.safetensors").is_file()}
        for step in sorted(steps, reverse=True):
            try:
                _check_model(steps[step])
                return steps[step]
            except ModelError as fault:
                logger.warning("passing over a damaged checkpoint: %s", fault)
        raise ModelError(f"{folder}: no complete checkpoint in this run folder")
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no model here, neither config.json nor checkpoints/")
        return folder
    if folder.exists():
        raise ModelError(f"{folder}: a file; name the folder with config.json and the weights")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", str(path)):
        raise ModelError(f"{folder}: no such folder")
    return download(str(path))


def _check_model(folder: Path):
    """ModelError unless the folder's files, where it has their checksums, are as they were written."""
    if (folder / SUMS).is_file():
        check_sums(folder, leave_out=("training_state.safetensors",))


def download(name: str) -> Path:
    """Fetch a model from the Hugging Face hub into its cache. Raises ModelError if that fails."""
    from huggingface_hub import snapshot_download

    try:
        wanted = ["*.json", "*.txt", "*.model", "model*.safetensors"]
        folder = Path(snapshot_download(name, allow_patterns=wanted))
        if not any((folder / file).is_file() for file in WEIGHT_FILES[:2]):
            snapshot_download(name, allow_patterns=["pytorch_model*.bin"])
        return folder
    except Exception as error:  # the hub's client lets errors of several network packages through
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"{name}: no such folder, and not to be had from the Hugging Face hub ({reason}); "
                         "download it elsewhere and name the local folder") from error


def read_config(folder: Path, **changes) -> AlbertConfig:
    """Configuration of a model folder, with keys changed. Raises ModelError, naming the file."""
    file = folder / "config.json"
    if fixed := sorted(set(changes) - set(CHANGEABLE)):
        raise ModelError(f"{fixed[0]} is fixed by the checkpoint; what can change is {', '.join(CHANGEABLE)}")
    mapping = read_json(file)
    for key, expected in (("position_embedding_type", "absolute"), ("is_decoder", False),
                          ("add_cross_attention", False), ("tie_word_embeddings", True)):
        if mapping.get(key, expected) != expected and (
                key != "tie_word_embeddings" or head_of(folder, ()) in ("", "pretraining", "maskedlm")):
            raise ModelError(f"{file}: {key}={mapping[key]!r}: only {expected!r} is supported")
    if "classifier_dropout" in mapping:
        mapping.setdefault("classifier_dropout_prob", mapping["classifier_dropout"])
    if isinstance(mapping.get("model_type"), str):
        mapping["model_type"] = mapping["model_type"].removesuffix(EXTENDED_SUFFIX)
    if isinstance(name := mapping.get("hidden_act"), str):
        mapping["hidden_act"] = _OTHER_NAMES.get(name, name)
    if "num_labels" in changes:
        mapping.pop("id2label", None)
    try:
        return AlbertConfig.from_dict(mapping | changes)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error


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


def head_of(folder: Path, stored: Iterable[str] | None = None) -> str:
    """The head that config.json names, such as "sequenceclassification", or where it names no architecture, as old ones
    do not, the one that the weights are of; "" for none. `stored`: the weights' names, where they are read already."""
    names = read_json(folder / "config.json").get("architectures")
    if isinstance(names, list) and names:
        name = str(names[0])
        return name.rpartition("For")[2].lower() if "For" in name else ""
    stored = ".".join(read_weights(folder) if stored is None else stored)
    heads = {"seq_relationship.": "pretraining", "sop_classifier.": "pretraining", "predictions.": "maskedlm",
             "qa_outputs.": "questionanswering"}
    return next((head for mark, head in heads.items() if mark in stored), "")


def finetuned(folder: Path) -> dict:
    """What a fine-tuning has settled beside the weights in a folder, as far as it has: "inputs" (their names), "seq_len",
    "doc_stride" and "threshold" (of no answer)."""
    values = read_json(folder / "config.json").get("finetuned")
    if not isinstance(values, dict) or "inputs" not in values:
        return {}
    kinds = {"inputs": list, "seq_len": int, "doc_stride": int, "threshold": float}
    return {name: values[name] for name, kind in kinds.items() if isinstance(values.get(name), kind)}


def save_config(model: PretrainedModel, folder: Path):
    """Write config.json, whole or not at all."""
    text = json.dumps(config_json(model), indent=2) + "\n"
    write_whole(folder / "config.json", lambda path: path.write_text(text, encoding="utf-8"))


def config_json(model: PretrainedModel) -> dict:
    """What `save_pretrained` writes into config.json."""
    config, name = model.config, type(model).__name__
    values = {key: value for key, value in config.to_dict().items() if value is not None}
    if name in ("AlbertForSequenceClassification", "AlbertForTokenClassification"):
        labels = config.id2label or {index: f"LABEL_{index}" for index in range(config.num_labels)}
        values |= {"id2label": labels, "label2id": {label: index for index, label in labels.items()}}
    else:  # Transformers takes the width of any head from the labels
        values.pop("id2label", None)
    del values["num_labels"]
    values["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    values["pad_token_id"] = config.pad_token_id
    values["classifier_dropout"] = config.classifier_dropout_prob
    if model.finetuned:
        values["finetuned"] = dict(model.finetuned)
    if not expressible(config):
        return {"architectures": [name], **values, "model_type": config.model_type + EXTENDED_SUFFIX}
    if config.model_type == "albert":  # Transformers knows no other way to say share="none"
        values["num_hidden_groups"] = config.attention_groups
    counterpart = ARCHITECTURES[name]
    if name == "AlbertForPretraining" and config.sentence_objective == "none":
        counterpart = "ForMaskedLM"
    return {"architectures": [config.model_type.capitalize() + counterpart], **values}


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


def match_weights(model: PretrainedModel, stored: dict[str, torch.Tensor], folder: Path,
                  new_labels: bool) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Weights by their names in `model`, and the heads that the stored ones lack.

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
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
