import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from albert.config import AlbertConfig


class ValueConvolution(nn.Module):
    """Depthwise convolution of the values over the tokens, one filter for each head, no bias (the skip
    connection of Nyströmformer, section 3.3). O(T · conv_kernel_size)."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_attention_heads, config.conv_kernel_size))

    def forward(self, value: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, heads, T, head_dim) to the same shape; values outside the mask (B, T) count as zero."""
        if mask is not None:
            value = value * rearrange(mask, "b t -> b 1 t 1")
        heads, width = self.weight.shape
        weight = rearrange(self.weight, "h k -> h 1 k 1")
        return F.conv2d(value, weight, padding=(width // 2, 0), groups=heads)
