import torch

from albert.attention.softmax import visible_keys


def feature_attention(log_query: torch.Tensor, log_key: torch.Tensor, value: torch.Tensor,
                      mask: torch.Tensor | None = None) -> torch.Tensor:
    """Attention with the kernel φ(q)·φ(k) in place of exp(q·k), from the logarithms of the features φ > 0.

    log_query and log_key (B, heads, T, features), value (B, heads, T, head_dim), mask (B, T), true = token.
    O(T · features · head_dim) time, O(T · features) memory.

    Σₜ φ(q)·φ(kₜ) vₜ / Σₜ φ(q)·φ(kₜ) is a mean over the features, with weights proportional to φ(q)_f Σₜ φ(kₜ)_f,
    of means over the tokens, with weights proportional to φ(kₜ)_f. As two softmaxes it needs no constant that keeps
    a denominator from zero, and no sum leaves the range of the values.
    """
    if mask is not None:
        log_key = log_key.masked_fill(~visible_keys(mask).mT, -torch.inf)
    total = log_key.logsumexp(dim=-2, keepdim=True)                                     # (B, heads, 1, features)
    means = (log_key - total).exp().to(value.dtype).mT @ value                          # (B, heads, features, head_dim)
    return (log_query + total).softmax(dim=-1).to(value.dtype) @ means
