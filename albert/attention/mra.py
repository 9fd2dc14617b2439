import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from albert.attention.packing import pack, unpack
from albert.attention.softmax import SoftmaxAttention
from albert.config import AlbertConfig

LOW = -1e30


class MRAAttention(nn.Module):
    """Multi-resolution approximation of softmax attention (Zeng et al. 2022, Multi Resolution Analysis (MRA) for
    Approximate Self-Attention, ICML, with the resolutions block_size and 1):
    O(T · blocks_per_row · block_size + (T / block_size)²) time and memory.

    Tokens are cut into blocks of block_size. exp(q·k) between the means of two blocks stands for all their pairs,
    but for the blocks_per_row blocks of keys that score highest in a block of queries (its own is always one of
    them): there every pair counts. The paper spends the same budget over the whole matrix at once.

    Low rank (Linformer, Nyström, Performer) misses the few large entries of attention, and a fixed window (Longformer)
    those far off; this keeps the large ones wherever they lie and the mass of the rest, and is exact at a budget of T.
    The paper reports it ahead of most efficient attentions in encoders, for short and for long sequences (4096 tokens).
    """

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.size, self.chosen = config.block_size, config.blocks_per_row
        self.softmax = SoftmaxAttention(config)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, heads, T, head_dim) three times and mask (B, T), true = token, to (B, heads, T, head_dim)."""
        if query.shape[2] <= self.size * self.chosen:
            return self.softmax(query, key, value, mask)
        with torch.autocast(query.device.type, enabled=False):
            if mask is None:
                real = torch.ones_like(query[:, 0, :, 0], dtype=torch.bool)
                return self.attend(query, key, value, real)[:, :, :query.shape[2]]
            packed, real, place = pack((query, key, value), mask)                       # see LocalAttention.forward
            return unpack(self.attend(*packed, real), place)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Attention of rows whose real tokens, those of `real` (B, T), come first: (B, heads, T and what fills the last
        block, head_dim)."""
        rows, heads, tokens, dim = query.shape
        blocks, precise = (tokens + self.size - 1) // self.size, torch.promote_types(query.dtype, torch.float32)
        rest = blocks * self.size - tokens
        real = rearrange(F.pad(real, (0, rest)), "b (n s) -> b 1 n s 1", n=blocks)
        query, key, value = (rearrange(F.pad(tensor, (0, 0, 0, rest)), "b h (n s) d -> b h n s d", n=blocks)
                             for tensor in (query * dim ** -0.5, key, value))

        count = real.sum(dim=3, dtype=precise)                                          # (B, 1, n, 1)
        query_mean, key_mean, value_mean = ((tensor.to(precise) * real).sum(dim=3) / count.clamp(min=1)
                                            for tensor in (query, key, value))          # (B, heads, n, head_dim)
        # a mean stands for `count` keys, so that its exponential counts as often
        coarse = query_mean @ key_mean.mT + rearrange(count.clamp(min=1).log(), "b 1 n 1 -> b 1 1 n")
        coarse = coarse.masked_fill(rearrange(count == 0, "b 1 n 1 -> b 1 1 n"), LOW)
        own = torch.eye(blocks, dtype=torch.bool, device=coarse.device)
        best = coarse.detach().masked_fill(own, torch.inf).topk(self.chosen, dim=-1, sorted=False).indices

        # blocks of all rows and heads in one list, from which the best are taken for each block of queries
        offset = torch.arange(rows * heads, device=best.device) * blocks
        index = (rearrange(best, "b h n k -> (b h) (n k)") + offset[:, None]).flatten()
        keys, values, visible = (
            rearrange(rearrange(tensor, "b h n s d -> (b h n) (s d)").index_select(0, index),
                      "(b h n k) (s d) -> b h n (k s) d", b=rows, h=heads, k=self.chosen, s=self.size)
            for tensor in (key, value, real.expand(-1, heads, -1, -1, -1)))
        fine = (query @ keys.mT).to(precise).masked_fill(~visible.mT, LOW)              # (B, heads, n, s, k s)
        fine_total = fine.logsumexp(dim=-1, keepdim=True)
        fine_output = (fine - fine_total).exp().to(value.dtype) @ values

        coarse = coarse.scatter(-1, best, LOW)                                          # these are in `fine`
        coarse_total = rearrange(coarse.logsumexp(dim=-1), "b h n -> b h n 1 1")
        coarse_output = rearrange(coarse.softmax(dim=-1) @ value_mean, "b h n d -> b h n 1 d").to(value.dtype)
        # of the sum of all exponentials, what lies in the chosen blocks
        share = torch.sigmoid(fine_total - coarse_total).to(value.dtype)
        output = (coarse_output + share * (fine_output - coarse_output)) * real         # padding gets zero
        return rearrange(output, "b h n s d -> b h (n s) d")
