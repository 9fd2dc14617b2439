import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from albert.attention.softmax import SoftmaxAttention
from albert.config import AlbertConfig


class NystromAttention(nn.Module):
    """Nyström approximation of softmax attention (Xiong et al. 2021, Nyströmformer, equations 7 to 13).

    With landmarks q̃, k̃ the means of m consecutive segments of the tokens, attention is F̃ pinv(Ã) B̃ v, where
    F̃ = softmax(q k̃ᵀ / √d), Ã = softmax(q̃ k̃ᵀ / √d) and B̃ = softmax(q̃ kᵀ / √d) for heads of size d: O(T m) time and
    memory for T tokens. In `forward`, `kernel` is Ã, `landmark_output` B̃ v and `corrected` pinv(Ã) B̃ v.

    Segments are cut from the real tokens of each row, so that padding and the other rows of a batch never
    matter. A row with no more real tokens than landmarks gets exact softmax attention.
    """

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.landmarks = config.num_landmarks
        self.iterations = config.pinv_iterations
        self.pinv_init = config.pinv_init
        self.softmax = SoftmaxAttention(config)
        # About 1 / tokens of a segment, which keeps sums over one in the range of float16; a power of two is exact.
        self.sum_scale = 2.0 ** -math.ceil(math.log2(max(config.max_position_embeddings / self.landmarks, 1)))

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, heads, T, head_dim) three times and mask (B, T), true = token, to (B, heads, T, head_dim)."""
        tokens, landmarks = query.shape[2], self.landmarks
        if tokens <= landmarks:
            return self.softmax(query, key, value, mask)
        precise = torch.promote_types(query.dtype, torch.float32)

        if mask is None and tokens % landmarks == 0:
            query_means, key_means = even_segment_means(query, landmarks), even_segment_means(key, landmarks)
        else:
            real = query.new_ones(1, tokens, dtype=torch.bool) if mask is None else mask
            segment = segments(real, landmarks)
            query_means, key_means = segment_means((query, key), segment, real, landmarks, self.sum_scale)
        landmark_output = self.softmax(query_means, key, value, mask)                # (B, heads, m, head_dim)

        with torch.autocast(query.device.type, enabled=False):
            scores = query_means.to(precise) @ key_means.to(precise).mT * query.shape[-1] ** -0.5
            kernel = scores.softmax(dim=-1)
            if mask is not None:
                short = rearrange(mask.sum(dim=-1) <= landmarks, "b -> b 1 1 1")
                kernel = torch.where(short, torch.eye(landmarks, dtype=precise, device=kernel.device), kernel)
            inverse = pseudo_inverse(kernel, self.iterations, self.pinv_init)
            corrected = (inverse @ landmark_output.to(precise)).to(value.dtype)
            if query.device.type == "cpu" and query.dtype != torch.float16:
                # over so few keys the backward of PyTorch's fused kernel takes up to four times as long as this
                scores = query @ (key_means * query.shape[-1] ** -0.5).mT
                output = scores.softmax(dim=-1) @ corrected
            else:
                output = F.scaled_dot_product_attention(query, key_means, corrected)

        if mask is not None:
            # In a short row each token is its own landmark, whose output is the token's exact attention.
            index = rearrange(segment, "b t -> b 1 t 1").expand_as(output)
            output = torch.where(short, landmark_output.gather(2, index), output)
        return output


def segments(mask: torch.Tensor, landmarks: int) -> torch.Tensor:
    """The segment (B, T) of each token: of n real tokens the one of rank r belongs to ⌊r · landmarks / n⌋.

    mask (B, T), true = token. Padding gets the segment of a neighbour.
    """
    rank = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    return rank * landmarks // mask.sum(dim=-1, keepdim=True).clamp(min=1)


def even_segment_means(tensor: torch.Tensor, landmarks: int) -> torch.Tensor:
    """`segment_means` where all tokens are real and the segments of one size: (B, heads, T, head_dim) likewise."""
    # a sum of float16 may leave its range; of the other formats it need not be formed in another, which costs in backward
    wider = torch.float32 if tensor.dtype == torch.float16 else None
    parts = rearrange(tensor, "b h (m s) d -> b h m s d", m=landmarks)
    return (parts.sum(dim=3, dtype=wider) / parts.shape[3]).to(tensor.dtype)


def segment_means(tensors: tuple[torch.Tensor, ...], segment: torch.Tensor, mask: torch.Tensor,
                  landmarks: int, scale: float) -> list[torch.Tensor]:
    """Means over each segment's real tokens: (B, heads, T, head_dim) to (B, heads, landmarks, head_dim).

    A segment without tokens, as rows shorter than `landmarks` have them, gets zero. Sums are formed times `scale`.
    """
    member = (segment[:, None] == torch.arange(landmarks, device=segment.device)[:, None]) & mask[:, None]
    weight = (member.sum(dim=-1, keepdim=True) * scale).clamp(min=scale)
    means = []
    for tensor in tensors:
        # one product for all heads: merging them is free where they were split from a projection's output
        sums = (member.to(tensor.dtype) * scale) @ rearrange(tensor, "b h t d -> b t (h d)")
        means.append(rearrange((sums / weight).to(tensor.dtype), "b m (h d) -> b h m d", h=tensor.shape[1]))
    return means


def pseudo_inverse(kernel: torch.Tensor, iterations: int, init: str) -> torch.Tensor:
    """Approximate the Moore-Penrose inverse of row-stochastic matrices (B, heads, m, m) by the iteration of
    order three of Razavi et al. 2014 (Nyströmformer, equation 14).

    It starts from the transpose divided by the largest column sum (the paper divides by the largest row sum too, which is 1):
    that of each matrix (`init` "exact"), or the largest one over the heads of the row ("original"; the released code takes
    it over the whole batch).
    """
    columns = kernel.sum(dim=-2, keepdim=True).amax(dim=-1, keepdim=True)
    if init == "original":
        columns = columns.amax(dim=1, keepdim=True)
    heads = kernel.shape[1]
    inverse, kernel = (rearrange(tensor, "b h i j -> (b h) i j") for tensor in (kernel.mT / columns, kernel))
    for _ in range(iterations):
        # Z (13 I - AZ (15 I - AZ (7 I - AZ))) / 4, multiplied out so that each step is one fused product
        product = kernel @ inverse
        nested = torch.baddbmm(product, product, product, beta=7, alpha=-1)
        nested = torch.baddbmm(product, product, nested, beta=15, alpha=-1)
        inverse = torch.baddbmm(inverse, inverse, nested, beta=3.25, alpha=-0.25)
    return rearrange(inverse, "(b h) i j -> b h i j", h=heads)
