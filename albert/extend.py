"""Change a trained model where its weights allow it: more positions, another attention, another vocabulary.

Each function changes the model in place and returns one line that says what it did.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from albert.attention import build_attention
from albert.attention.linformer import LinformerAttention
from albert.errors import ModelError
from albert.models import Albert
from albert.pretrained import PretrainedModel, initialize


ATTENTION_KEYS = ("conv_kernel_size", "num_landmarks", "pinv_iterations", "pinv_init", "num_features", "attention_window",
                  "block_size", "blocks_per_row")


def extend_positions(model: PretrainedModel, positions: int) -> str:
    """Give the model `positions` positions; the new ones repeat the trained ones in order, as Longformer's
    were begun (Beltagy et al. 2020, section 5). Raises ModelError for fewer than it has."""
    albert = albert_of(model)
    trained = albert.embeddings.position_embeddings.weight.detach()
    if positions < len(trained):
        raise ModelError(f"max_position_embeddings={positions}: the checkpoint has {len(trained)} already")
    copies = -(-positions // len(trained))
    albert.embeddings.position_embeddings = nn.Embedding.from_pretrained(
        trained.repeat(copies, 1)[:positions], freeze=False)
    for part in albert.encoder.modules():
        if isinstance(part, LinformerAttention):
            part.extend_positions(positions)
    set_config(model, max_position_embeddings=positions)
    return f"positions extended from {len(trained)} to {positions}, the new ones repeating the old"


def switch_attention(model: PretrainedModel, attention: str, **options) -> str:
    """Exchange the kind of attention and keep the projections around it.

    options: of `ATTENTION_KEYS`; conv_kernel_size is the new kind's own default when not given, and stays where the kind
    stays. Weights that both have (Linformer's projections) are kept. A convolution that is new starts at zero, so that it
    leaves the output unchanged; one of the width the model has keeps its weights. Raises ModelError for an unknown kind or
    option.
    """
    if unknown := options.keys() - set(ATTENTION_KEYS):
        raise ModelError(f"{min(unknown)} is no option of attention; there are {', '.join(ATTENTION_KEYS)}")
    before = model.config
    same = attention == before.attention
    width = before.conv_kernel_size if same else None
    config = replace(before, **{"attention": attention, "conv_kernel_size": width, **options})
    kept = config.conv_kernel_size == before.conv_kernel_size
    for block in albert_of(model).encoder.attention:
        attend = build_attention(config).to(block.query.weight)
        initialize(attend, config)
        if kept and config.conv_kernel_size:
            attend.convolution = block.attend.convolution
        elif config.conv_kernel_size:
            nn.init.zeros_(attend.convolution.weight)
        if same:
            keep_weights(*(getattr(module, "attend", module) for module in (block.attend, attend)))  # without convolution
        block.attend = attend.train(block.training)
    set_config(model, **{key: getattr(config, key) for key in ("attention", "conv_kernel_size", *options)})
    return (f"attention {before.attention} -> {attention}, conv_kernel_size {before.conv_kernel_size} -> "
            f"{config.conv_kernel_size}{'' if kept or not config.conv_kernel_size else ', starting at zero'}")


def keep_weights(old: nn.Module, new: nn.Module):
    """Give `new` the weights of `old` of the same names and shapes."""
    shapes = {name: weight.shape for name, weight in new.state_dict().items()}
    kept = {name: weight for name, weight in old.state_dict().items() if weight.shape == shapes.get(name)}
    new.load_state_dict(kept, strict=False)


def replace_vocabulary(model: PretrainedModel, vocab_size: int, new_rows_from: Mapping[int, int],
                       pad_token_id: int | None = 0) -> str:
    """Exchange the vocabulary: new token `id` keeps the embedding, and the bias of the MLM head, of old token
    `new_rows_from[id]`; tokens not in the mapping are initialised.

    Raises ModelError for an id outside either vocabulary.
    """
    albert = albert_of(model)
    trained = albert.embeddings.word_embeddings.weight.detach()
    new, old = (torch.tensor(list(ids), dtype=torch.long, device=trained.device)
                for ids in (new_rows_from.keys(), new_rows_from.values()))
    for ids, size in ((new, vocab_size), (old, len(trained))):
        if len(ids) and not 0 <= ids.min() <= ids.max() < size:
            raise ModelError(f"token {int(ids.max())} is outside a vocabulary of {size}")
    embeddings = nn.Embedding(vocab_size, trained.shape[1], padding_idx=pad_token_id).to(trained)
    initialize(embeddings, model.config)
    with torch.no_grad():
        embeddings.weight[new] = trained[old]
    albert.embeddings.word_embeddings = embeddings
    if hasattr(model, "mlm_head"):
        bias = torch.zeros(vocab_size).to(trained)
        bias[new] = model.mlm_head.bias.detach()[old]
        model.mlm_head.bias = nn.Parameter(bias)
    set_config(model, vocab_size=vocab_size, pad_token_id=pad_token_id)
    kept = len(new)
    return f"vocabulary exchanged: {kept} of {vocab_size} embeddings kept, {vocab_size - kept} initialised"


def albert_of(model: PretrainedModel) -> Albert:
    return model if isinstance(model, Albert) else model.albert


def set_config(model: PretrainedModel, **changes):
    albert_of(model).config = model.config = replace(model.config, **changes)
