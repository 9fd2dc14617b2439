import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from albert.config import AlbertConfig


class SoftmaxAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1): O(T²) time, O(T) memory where PyTorch
    has a fused kernel."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.dropout = config.attention_probs_dropout_prob

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, heads, T, head_dim) three times and mask (B, T), true = token, to (B, heads, T, head_dim)."""
        if mask is not None:
            mask = visible_keys(mask)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)


def visible_keys(mask: torch.Tensor) -> torch.Tensor:
    """mask (B, T), true = token, to the keys that are attended to (B, 1, 1, T): a row of nothing but padding attends
    everywhere, for softmax over no key at all is NaN."""
    return rearrange(mask | ~mask.any(dim=-1, keepdim=True), "b t -> b 1 1 t")
