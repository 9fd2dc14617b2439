import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from albert.attention.packing import pack, unpack
from albert.attention.softmax import SoftmaxAttention
from albert.config import AlbertConfig


class LocalAttention(nn.Module):
    """Softmax attention to the attention_window / 2 tokens on either side and to the first token, [CLS], which itself
    attends to all (Beltagy et al. 2020, Longformer, section 3.1; the projections of [CLS] are those of every token):
    O(T · attention_window) time and memory.

    Distance counts real tokens.
    """

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.reach = config.attention_window // 2
        self.dropout = config.attention_probs_dropout_prob
        self.softmax = SoftmaxAttention(config)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, heads, T, head_dim) three times and mask (B, T), true = token, to (B, heads, T, head_dim)."""
        real, place = mask, None
        if mask is not None:
            (query, key, value), real, place = pack((query, key, value), mask)
        first = self.softmax(query[:, :, :1], key, value, real)
        output = torch.cat((first, self.windows(query, key, value, real)[:, :, 1:]), dim=2)
        # unpack also cuts what fills the last chunk: a slice here would bind a program of torch.export to lengths that are
        # multiples of a chunk, or to lengths that are not
        return output[:, :, :query.shape[2]] if place is None else unpack(output, place)

    def windows(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                real: torch.Tensor | None) -> torch.Tensor:
        """Attention of every token to its window and the first token, [CLS]: (B, heads, T and what fills the last chunk,
        head_dim)."""
        rows, heads, tokens, _ = query.shape
        reach, chunks = self.reach, (tokens + self.reach - 1) // self.reach
        rest = chunks * reach - tokens
        numbers = torch.arange(tokens, device=query.device)
        # the first token is a key of its own beside every window, and none within them
        visible = (numbers > 0).expand(rows, tokens) if real is None else real & (numbers > 0)
        visible = three_chunks(rearrange(F.pad(visible, (reach, reach + rest)), "b (n c) -> b n c", c=reach), dim=2)
        place, target = (torch.arange(*ends, device=query.device) for ends in ((0, reach), (-reach, 2 * reach)))
        near = (place[:, None] - target).abs() <= reach                             # (c, 3 c)
        allowed = F.pad(near & rearrange(visible, "b n k -> (b n) 1 1 k"), (1, 0), value=True)

        chunks = rearrange(F.pad(query, (0, 0, 0, rest)), "b h (n c) d -> (b n) h c d", c=reach)
        key, value = (self.with_first(tensor, rest) for tensor in (key, value))
        attended = F.scaled_dot_product_attention(chunks, key, value, allowed, self.dropout if self.training else 0.0)
        return rearrange(attended, "(b n) h c d -> b h (n c) d", b=rows)

    def with_first(self, tensor: torch.Tensor, rest: int) -> torch.Tensor:
        """Keys or values (B, heads, T, head_dim) of each chunk: the first token, the chunk before, itself, the next."""
        chunks = rearrange(F.pad(tensor, (0, 0, self.reach, self.reach + rest)), "b h (n c) d -> b n h c d", c=self.reach)
        windows = three_chunks(chunks, dim=3)
        first = rearrange(tensor[:, :, :1], "b h 1 d -> b 1 h 1 d").expand(-1, windows.shape[1], -1, -1, -1)
        return rearrange(torch.cat((first, windows), dim=3), "b n h k d -> (b n) h k d")


def three_chunks(chunks: torch.Tensor, dim: int) -> torch.Tensor:
    """Each chunk (B, n + 2, ...) but the outermost, between its neighbours: (B, n, ...) of three times the size."""
    return torch.cat((chunks[:, :-2], chunks[:, 1:-1], chunks[:, 2:]), dim=dim)
