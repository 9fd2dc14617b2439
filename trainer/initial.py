"""The model a run starts with: new, or a checkpoint adapted to the run."""
from dataclasses import fields

import torch

from albert import AlbertConfig, AlbertForPretraining
from albert.errors import ModelError
from albert.extend import ATTENTION_KEYS, extend_positions, replace_vocabulary, switch_attention
from albert.pretrained import CHANGEABLE, read_config
from data import draws
from data.tokenizer import load_tokenizer, special_ids, vocabulary_size
from trainer.errors import RunError
from trainer.run import run_config, settings_of

_ATTENTION = ("attention", *ATTENTION_KEYS)
_ARCHITECTURE = {field.name for field in fields(AlbertConfig)}
_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob")


def check_changes(keys):
    """Raise ModelError for a key of the architecture that no checkpoint can take."""
    allowed = (*CHANGEABLE, *_ATTENTION, "max_position_embeddings")
    if fixed := sorted(set(keys) & _ARCHITECTURE - set(allowed)):
        shown = dict.fromkeys(key for key in allowed if key not in ("num_labels", "id2label", "problem_type"))  # of the task
        raise ModelError(f"{fixed[0]} is fixed by the checkpoint; what can change is seq_len, {', '.join(shown)}")


def adopt_language(hps, keys, name):
    """Give ``hps`` what the run ``name`` says of its text's language, except for ``keys``; a checkpoint that is no run's says
    nothing."""
    try:
        said = run_config(name)
    except RunError:
        return
    own = {key: getattr(hps, key) for key in ("language", "lower_case", "strip_accents") if key not in keys}
    vars(hps).update(vars(settings_of(name, said, own)))


def new_model(hps):
    """An AlbertForPretraining of the architecture of ``hps``, its weights drawn from ``seed``."""
    torch.manual_seed(draws.key(hps.seed, "initial weights"))
    return AlbertForPretraining(AlbertConfig.from_dict(vars(hps)))


def model_to_finetune(folder, hps, keys, model_class, labels):
    """(tokenizer, model, lines that say what was changed) of the checkpoint in ``folder`` for a task with these ``labels``,
    under ``hps`` of which the user has set ``keys``; see `adapted_model`. Dropout is that of ``hps``, and ``seq_len``, where it
    is not set, at most what the checkpoint has positions for."""
    tokenizer, config = load_tokenizer(folder), read_config(folder)
    check_vocabulary(folder, config, tokenizer)
    if "seq_len" not in keys:
        hps.seq_len = min(hps.seq_len, config.max_position_embeddings)
    changed = [*keys, *(key for key in _DROPOUTS if getattr(hps, key) != getattr(config, key))]
    return tokenizer, *adapted_model(folder, tokenizer, hps, changed, model_class, **labels)


def adapted_model(folder, tokenizer, hps, changed, model_class=AlbertForPretraining, **labels):
    """The checkpoint in ``folder`` made ready to go on under ``hps``: (model, lines that say what was changed).

    The architecture is the checkpoint's, but for the keys ``changed`` on the command line; ``hps`` takes it over.
    Positions are added for a longer ``seq_len``; under another tokenizer the embeddings of shared pieces are kept.
    ``labels``: configuration keys of a task's classes. ``changed`` has passed `check_changes`.
    """
    changes = {key: getattr(hps, key) for key in changed if key in _ARCHITECTURE}
    attention = {key: changes.pop(key) for key in _ATTENTION if key in changes}
    known, positions = read_config(folder), changes.pop("max_position_embeddings", None)
    if positions is not None and positions < known.max_position_embeddings:
        raise ModelError(f"max_position_embeddings={positions}: the checkpoint has {known.max_position_embeddings}, which can "
                         "only become more")
    positions = max(hps.seq_len, positions or 0)
    torch.manual_seed(draws.key(hps.seed, "initial weights"))
    model = model_class.from_pretrained(folder, **changes, **labels)
    lines = [f"{key} {getattr(known, key)} -> {value}" for key, value in changes.items()]
    if attention:
        kind = attention.pop("attention", model.config.attention)
        lines.append(switch_attention(model, kind, **attention))
    if positions > model.config.max_position_embeddings:
        lines.append(extend_positions(model, positions))
    before, after = (item.get_vocab(with_added_tokens=True) for item in (load_tokenizer(folder), tokenizer))
    if before != after:
        shared = {index: before[piece] for piece, index in after.items() if piece in before}
        lines.append(replace_vocabulary(model, vocabulary_size(tokenizer), shared, special_ids(tokenizer).pad))
    for key, value in model.config.to_dict().items():
        if hasattr(hps, key):
            setattr(hps, key, value)
    return model, lines


def freeze(model, what):
    """Take parameters out of training: ``what`` is "embeddings", or a number of encoder layers with the embeddings.

    Raises ModelError for layers that there are not, or whose weights later layers share.
    """
    if what != "embeddings" and not what.isdecimal():
        raise ModelError(f"--freeze {what}: write embeddings or a number of layers")
    encoder, layers = model.albert.encoder, 0 if what == "embeddings" else int(what)
    if layers > len(encoder.layers):
        raise ModelError(f"--freeze {what}: the model has {len(encoder.layers)} layers")
    frozen = [model.albert.embeddings]
    for blocks, steps in zip((encoder.attention, encoder.feed_forward), zip(*encoder.layers)):
        if layers and set(steps[:layers]) & set(steps[layers:]):
            raise ModelError(f"--freeze {what}: later layers share the weights of these; --freeze embeddings works, or "
                             f"--freeze {len(encoder.layers)} for the whole encoder")
        frozen += [blocks[index] for index in set(steps[:layers])]
    for part in frozen:
        part.requires_grad_(False)


def check_vocabulary(folder, config, tokenizer):
    """Raise ModelError where a checkpoint's tokenizer is not the one of its embeddings."""
    size = vocabulary_size(tokenizer)
    if not size <= config.vocab_size < size + 128:          # some models pad their embeddings to a round number
        raise ModelError(f"{folder}: its tokenizer has {size} tokens, but its config.json says "
                         f"vocab_size={config.vocab_size}")
