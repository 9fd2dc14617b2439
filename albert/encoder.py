from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.utils.checkpoint import checkpoint

from albert.attention import build_attention
from albert.config import AlbertConfig

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
    "silu": F.silu,
}
Keep = Callable[[torch.Tensor], torch.Tensor]            # (B, T, H) to those of its tokens that are needed, (..., H)


class AttentionBlock(nn.Module):
    """Multi-head attention of any kind with its residual and LayerNorm: (B, T, H) to (B, T, H), or what `keep` leaves."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_attention_heads
        self.pre_norm = config.norm_position == "pre"
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.attend = build_attention(config)
        self.output = nn.Linear(size, size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None, keep: Keep | None = None) -> torch.Tensor:
        inputs = self.norm(hidden) if self.pre_norm else hidden
        query, key, value = (rearrange(project(inputs), "b t (h d) -> b h t d", h=self.heads)
                             for project in (self.query, self.key, self.value))
        attended = rearrange(self.attend(query, key, value, mask), "b h t d -> b t (h d)")
        if keep is not None:
            hidden, attended = keep(hidden), keep(attended)
        hidden = hidden + self.dropout(self.output(attended))
        return hidden if self.pre_norm else self.norm(hidden)


class FeedForward(nn.Module):
    """The position-wise network with its residual and LayerNorm: (..., H) to (..., H)."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        inputs = self.norm(hidden) if self.pre_norm else hidden
        hidden = hidden + self.dropout(self.output(self.activation(self.intermediate(inputs))))
        return hidden if self.pre_norm else self.norm(hidden)


class Encoder(nn.Module):
    """Layers whose parameters are shared over depth (ALBERT, section 3.1).

    `layers` has, for each layer that runs, `num_hidden_layers` · `inner_group_num` of them, the numbers of its attention
    and of its feed-forward block. They are divided evenly among the groups; `share` says which blocks are those of the
    group: the others are new at every depth.
    """

    def __init__(self, config: AlbertConfig):
        super().__init__()
        inner = config.inner_group_num
        self.attention = nn.ModuleList(AttentionBlock(config) for _ in range(config.attention_groups * inner))
        self.feed_forward = nn.ModuleList(FeedForward(config) for _ in range(config.ffn_groups * inner))
        pre_norm = config.norm_position == "pre"
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if pre_norm else None
        self.layers = list(zip(block_numbers(config, config.attention_groups), block_numbers(config, config.ffn_groups)))
        self.activation_checkpointing = False

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None, keep: Keep | None = None) -> torch.Tensor:
        """hidden (B, T, H) and mask (B, T), true = token, to (B, T, H), or to what `keep` leaves of it: the last layer's
        attention sees all tokens, but what comes after it is computed of these alone.

        With `activation_checkpointing` only each layer's input is kept for the backward pass, which computes the layer
        again, with the same dropout (Chen et al. 2016): less memory, a third more time, the same gradients.
        """
        if self.norm is not None:
            # pre-LN normalises no sum on its way: in the 8 or 11 bits that autocast leaves the embeddings in, small terms
            # would be lost
            hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        for layer, kept in zip(self.layers, [None] * (len(self.layers) - 1) + [keep]):
            if self.activation_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(self._run, layer, hidden, mask, kept, use_reentrant=False)
            else:
                hidden = self._run(layer, hidden, mask, kept)
        return hidden if self.norm is None else self.norm(hidden)

    def _run(self, layer: tuple[int, int], hidden: torch.Tensor, mask: torch.Tensor | None,
             keep: Keep | None) -> torch.Tensor:
        attention, feed_forward = layer
        return self.feed_forward[feed_forward](self.attention[attention](hidden, mask, keep))


def block_numbers(config: AlbertConfig, groups: int) -> list[int]:
    """The number of the block that each of the num_hidden_layers · inner_group_num layers takes."""
    depths = config.num_hidden_layers / groups           # of a group; a float, as in the release: it need not be whole
    return [int(depth / depths) * config.inner_group_num + inner
            for depth in range(config.num_hidden_layers) for inner in range(config.inner_group_num)]
