import torch
from einops import rearrange
from torch import nn

from albert.attention.features import feature_attention
from albert.config import AlbertConfig


class PerformerAttention(nn.Module):
    """Softmax attention by positive orthogonal random features, FAVOR+ (Choromanski et al. 2021, Rethinking Attention
    with Performers, lemma 1): O(T · num_features · head_dim) time, O(T · num_features) memory.

    In training the features are drawn anew at each call, from the generator that dropout draws from; evaluation takes
    the ones that the checkpoint keeps. All heads share them.
    """

    def __init__(self, config: AlbertConfig):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("features", orthogonal_features(config.num_features, config.head_dim, generator, "cpu"))

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, heads, T, head_dim) three times and mask (B, T), true = token, to (B, heads, T, head_dim)."""
        precise = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast(query.device.type, enabled=False):
            features = self.features
            if self.training:
                features = orthogonal_features(*features.shape, None, query.device)
            features = features.to(precise)
            query, key = (tensor.to(precise) * tensor.shape[-1] ** -0.25 for tensor in (query, key))
            # exp(ω·x - |x|²/2); the norm of a query cancels
            log_key = key @ features.mT - key.square().sum(dim=-1, keepdim=True) / 2
            return feature_attention(query @ features.mT, log_key, value, mask)


def orthogonal_features(count: int, dim: int, generator: torch.Generator | None,
                        device: torch.device | str) -> torch.Tensor:
    """Directions ω (count, dim), each distributed as a standard normal vector; every `dim` in a row are orthogonal."""
    blocks = -(-count // dim)
    directions, triangle = torch.linalg.qr(torch.randn(blocks, dim, dim, generator=generator, device=device))
    # with the signs of R's diagonal the factor is uniformly distributed (Mezzadri 2007)
    directions = directions * rearrange(triangle.diagonal(dim1=-2, dim2=-1).sign(), "n j -> n 1 j")
    lengths = torch.randn(blocks, dim, dim, generator=generator, device=device).norm(dim=-1, keepdim=True)
    return rearrange(directions * lengths, "n i j -> (n i) j")[:count].contiguous()
