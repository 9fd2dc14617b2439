"""Models from folders and into folders: config.json and model.safetensors, laid out as by 🤗 Transformers."""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from albert.attention.convolution import ValueConvolution
from albert.checksums import SUMS, check_sums
from albert.config import AlbertConfig
from albert.errors import ModelError
from albert.files import read_json, write_json, write_whole
from albert.names import ARCHITECTURES, EXTENDED_SUFFIX, disk_name, expressible
from albert.weights import WEIGHT_FILES, checksum, match_weights, read_weights, relabelled

logger = logging.getLogger("albert")

# Keys of the configuration that from_pretrained can change: no weight of the encoder depends on them (Linformer's on
# num_landmarks).
CHANGEABLE = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob",
              "num_landmarks", "pinv_iterations", "pinv_init", "attention_window", "block_size", "blocks_per_row",
              "sentence_objective", "num_labels", "id2label", "problem_type")

_OTHER_NAMES = {"gelu_pytorch_tanh": "gelu_new", "gelu_python": "gelu", "swish": "silu"}       # of activations, in Transformers


class PretrainedModel(nn.Module):
    """Gives a model `from_pretrained` and `save_pretrained`; the model's only other duty is its `config`.

    `finetuned`: what a fine-tuning has settled beside the weights, see `read_finetuned`; config.json keeps it.
    """

    config: AlbertConfig
    finetuned: Mapping = MappingProxyType({})

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, **changes):
        """Read a model, in evaluation mode, in float32 (float64 stays).

        path: a run folder (its newest undamaged checkpoint), a checkpoint folder, or a folder or hub name in
        the Hugging Face layout. changes: configuration keys that differ from the folder's, out of
        `CHANGEABLE`. With other labels than the folder's, or where its head is of another task, a classifier is begun
        anew; with the same labels in another order the old one is put in that order. A head that the folder lacks is
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
            model.finetuned = read_finetuned(folder)
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
        """Write config.json and model.safetensors, each whole or not at all. Raises ModelError on failure, and for the folder of
        a run or of one of its checkpoints, which holds what a run goes on with."""
        folder, config = Path(folder), self.config
        if (folder / "checkpoints").is_dir() or (folder / SUMS).is_file():
            raise ModelError(f"{folder}: the folder of a run or of its checkpoint; save into one of your own")
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
        for step in reversed(listed(folder / "checkpoints")):
            if (step / "config.json").is_file() and (step / "model.safetensors").is_file():
                try:
                    _check_model(step)
                    return step
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


def listed(folder: Path) -> list[Path]:
    """The folders step-<number> in `folder`, a run's checkpoints, oldest first."""
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdecimal() and path.is_dir()),
                  key=lambda path: int(path.name[5:]))


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
        why = "is fixed by the checkpoint" if fixed[0] in AlbertConfig.__annotations__ else "is no key"
        raise ModelError(f"{fixed[0]} {why}; what can change is {', '.join(CHANGEABLE)}; albert.extend changes the attention "
                         "and adds positions")
    mapping = read_json(file)
    supported = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
    if _named_head(mapping) in (None, "", "pretraining", "maskedlm"):       # other heads do not use the embeddings
        supported["tie_word_embeddings"] = True
    for key, expected in supported.items():
        if mapping.get(key, expected) != expected:
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
        config = AlbertConfig.from_dict(mapping | changes)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error
    if changes.get("num_labels", config.num_labels) != config.num_labels:
        raise ModelError(f"num_labels={changes['num_labels']}, but id2label names {config.num_labels}: leave one of them out")
    return config


def head_of(folder: Path, stored: Iterable[str] | None = None) -> str:
    """The head that config.json names, such as "sequenceclassification", or where it names no architecture, as old ones
    do not, the one that the weights are of; "" for none. `stored`: the weights' names, where they are read already."""
    named = _named_head(read_json(folder / "config.json"))
    if named is not None:
        return named
    stored = ".".join(read_weights(folder) if stored is None else stored)
    heads = {"seq_relationship.": "pretraining", "sop_classifier.": "pretraining", "predictions.": "maskedlm",
             "qa_outputs.": "questionanswering"}
    return next((head for mark, head in heads.items() if mark in stored), "")


def _named_head(mapping: dict) -> str | None:
    """The head of the first architecture that config.json names, "" for one without, None where it names none."""
    names = mapping.get("architectures")
    if not isinstance(names, list) or not names:
        return None
    name = str(names[0])
    return name.rpartition("For")[2].lower() if "For" in name else ""


def read_finetuned(folder: Path) -> dict:
    """What a fine-tuning has settled beside the weights in a folder, as far as it has: "inputs" (their names), "seq_len",
    "doc_stride" and "threshold" (of no answer)."""
    values = read_json(folder / "config.json").get("finetuned")
    if not isinstance(values, dict) or "inputs" not in values:
        return {}
    kinds = {"inputs": list, "seq_len": int, "doc_stride": int, "threshold": float}
    return {name: values[name] for name, kind in kinds.items() if isinstance(values.get(name), kind)}


def save_config(model: PretrainedModel, folder: Path):
    """Write config.json, whole or not at all."""
    write_json(folder / "config.json", config_json(model))


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
