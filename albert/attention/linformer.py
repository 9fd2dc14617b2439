import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from albert.attention.packing import pack
from albert.config import AlbertConfig


class LinformerAttention(nn.Module):
    """Softmax attention over num_landmarks learned combinations of the keys and of the values (Wang et al. 2020,
    Linformer, equation 7; one projection of the keys and one of the values for all heads): O(T · num_landmarks) time
    and memory.

    A projection has a column for each position: the token of rank r among a row's real tokens takes column r.
    """

    def __init__(self, config: AlbertConfig):
        super().__init__()
        shape = config.num_landmarks, config.max_position_embeddings
        self.key_projection = nn.Parameter(torch.empty(shape))
        self.value_projection = nn.Parameter(torch.empty(shape))
        self.dropout = config.attention_probs_dropout_prob

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, heads, T, head_dim) three times and mask (B, T), true = token, to (B, heads, T, head_dim)."""
        if mask is not None:
            (key, value), real, _ = pack((key, value), mask)
            key, value = (tensor * rearrange(real, "b t -> b 1 t 1") for tensor in (key, value))
        key, value = project(self.key_projection, key), project(self.value_projection, value)
        return F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout if self.training else 0.0)

    def extend_positions(self, positions: int):
        """Give the projections `positions` columns; the new ones repeat the old ones in order."""
        for weight in (self.key_projection, self.value_projection):
            copies = -(-positions // weight.shape[1])
            weight.data = weight.data.repeat(1, copies)[:, :positions].contiguous()


def project(weight: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """(m, positions) and (B, heads, T, head_dim) to (B, heads, m, head_dim), as one product for all heads."""
    positions = torch.arange(tensor.shape[2], device=weight.device)        # a slice would fix the length in an export
    weight = weight.index_select(1, positions).to(tensor.dtype)
    projected = weight @ rearrange(tensor, "b h t d -> b t (h d)")
    return rearrange(projected, "b m (h d) -> b h m d", h=tensor.shape[1])
