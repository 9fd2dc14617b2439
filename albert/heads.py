import torch
import torch.nn.functional as F
from torch import nn

from albert.config import AlbertConfig
from albert.encoder import ACTIVATIONS


class MaskedLMHead(nn.Module):
    """Hidden states to vocabulary logits through the transposed word embeddings (BERT, ALBERT's release)."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.norm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: torch.Tensor, word_embeddings: torch.Tensor) -> torch.Tensor:
        """hidden (..., H) and word_embeddings (V, E), the decoder's tied weight, to logits (..., V)."""
        return F.linear(self.norm(self.activation(self.dense(hidden))), word_embeddings, self.bias)


class ClassificationHead(nn.Module):
    """Dropout and a linear layer: (..., H) to logits (..., labels)."""

    def __init__(self, hidden_size: int, labels: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, labels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.linear(self.dropout(hidden))
