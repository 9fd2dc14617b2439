import torch
from torch import nn

from albert.config import AlbertConfig
from albert.errors import ModelError


class Embeddings(nn.Module):
    """Factorised embeddings (ALBERT, section 3.1): the sum of token, segment and position vectors of
    `embedding_size`, normalised, then projected to `hidden_size`."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        size = config.embedding_size
        self.word_embeddings = table(config.vocab_size, size, config.pad_token_id)
        self.position_embeddings = table(config.max_position_embeddings, size)
        self.token_type_embeddings = table(config.type_vocab_size, size)
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.projection = nn.Linear(size, config.hidden_size) if config.projects_embeddings else nn.Identity()

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) token ids and segment ids (None: all 0) to (B, T, H).

        Raises ModelError for more tokens than there are positions.
        """
        length, positions = input_ids.shape[1], self.position_embeddings.num_embeddings
        if length > positions:
            raise ModelError(f"{length} tokens, but the model has max_position_embeddings={positions}")
        if token_type_ids is None or self.token_type_embeddings.num_embeddings == 1:
            segments = self.token_type_embeddings.weight[0]
        else:
            segments = self.token_type_embeddings(token_type_ids)
        embedded = self.word_embeddings(input_ids) + segments + self.position_embeddings.weight[:length]
        return self.projection(self.dropout(self.norm(embedded)))


def table(rows: int, size: int, padding_idx: int | None = None) -> nn.Embedding:
    """An embedding whose weights `initialize` draws, or a file fills."""
    # nn.Embedding() would draw them itself, which on the meta device costs seconds of imports before any loading
    return nn.Embedding.from_pretrained(torch.empty(rows, size), freeze=False, padding_idx=padding_idx)
