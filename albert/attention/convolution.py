import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from albert.config import AlbertConfig


class ValueConvolution(nn.Module):
    """Depthwise convolution of the values over the tokens, one filter for each head, no bias (the skip
    connection of Nyströmformer). O(T · conv_kernel_size)."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_attention_heads, config.conv_kernel_size))

    def forward(self, value: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, heads, T, head_dim) to the same shape; values outside the mask (B, T) count as zero."""
        if mask is not None:
            value = value * rearrange(mask, "b t -> b 1 t 1")
        channels = rearrange(value, "b h t d -> b t 1 (h d)")
        filters = repeat(self.weight, "h k -> (h d) 1 k 1", d=value.shape[3])
        # An image one pixel wide, in channels-last strides as the projection left them, is several times as
        # fast on CPU as conv1d. movedim and not einops, whose reshape loses the strides of a batch of one.
        convolved = F.conv2d(channels.movedim(3, 1), filters, padding=(self.weight.shape[1] // 2, 0),
                             groups=len(filters))
        return rearrange(convolved, "b (h d) t 1 -> b h t d", h=value.shape[1])
