import torch
from torch import nn

from albert.attention.features import feature_attention
from albert.config import AlbertConfig


class LinearAttention(nn.Module):
    """Attention with the kernel φ(q)·φ(k), φ(x) = elu(x) + 1 (Katharopoulos et al. 2020, Transformers are RNNs,
    equations 4 to 7): O(T · head_dim²) time, O(T · head_dim) memory."""

    def __init__(self, config: AlbertConfig):
        super().__init__()

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, heads, T, head_dim) three times and mask (B, T), true = token, to (B, heads, T, head_dim)."""
        with torch.autocast(query.device.type, enabled=False):
            return feature_attention(log_elu_plus_one(query), log_elu_plus_one(key), value, mask)


def log_elu_plus_one(x: torch.Tensor) -> torch.Tensor:
    """log(elu(x) + 1), which is log(1 + x) above 0 and x below; in float32 or better."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.where(x > 0, x.clamp(min=0).log1p(), x)
