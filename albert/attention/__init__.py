"""Kinds of attention, one a file. Each is called as attend(query, key, value, mask), with
(B, heads, T, head_dim) three times and a boolean mask (B, T), true = token, or None, and returns
(B, heads, T, head_dim)."""

import torch
from torch import nn

from albert.attention.convolution import ValueConvolution
from albert.attention.linear import LinearAttention
from albert.attention.linformer import LinformerAttention
from albert.attention.local import LocalAttention
from albert.attention.mra import MRAAttention
from albert.attention.nystrom import NystromAttention
from albert.attention.performer import PerformerAttention
from albert.attention.softmax import SoftmaxAttention
from albert.config import AlbertConfig

KINDS = {
    "softmax": SoftmaxAttention,
    "nystrom": NystromAttention,
    "linformer": LinformerAttention,
    "performer": PerformerAttention,
    "linear": LinearAttention,
    "local": LocalAttention,
    "mra": MRAAttention,
}


class ConvolvedAttention(nn.Module):
    """Any kind of attention plus the depthwise convolution of its values."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.attend = KINDS[config.attention](config)
        self.convolution = ValueConvolution(config)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        # in this order: the sum has the strides of its first term, and those of the convolution fit the next projection
        return self.convolution(value, mask) + self.attend(query, key, value, mask)


def build_attention(config: AlbertConfig) -> nn.Module:
    """The attention that `config.attention` and `config.conv_kernel_size` name."""
    return ConvolvedAttention(config) if config.conv_kernel_size else KINDS[config.attention](config)
