"""ALBERT (Lan et al. 2020) and BERT (Devlin et al. 2019), with the heads of pretraining and of the tasks.

Shapes: B rows, T tokens a row, H hidden_size, V vocab_size, C choices.
Every model takes input_ids and token_type_ids (B, T), token_type_ids=None for one segment, and attention_mask
(B, T), 1 or true = token, 0 or false = padding, None = no padding.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from albert.config import AlbertConfig
from albert.embeddings import Embeddings
from albert.encoder import Encoder
from albert.errors import ModelError
from albert.heads import ClassificationHead, MaskedLMHead
from albert.pretrained import PretrainedModel, initialize

# With labels the masked positions are filled up to a multiple of so many: their count is new in every batch, and oneDNN
# prepares a product anew for each shape (10 ms for 8,000 words).
ROWS = 64


class PretrainingOutput(NamedTuple):
    mlm_logits: torch.Tensor            # (B, T, V), or (M, V) for M masked positions
    sop_logits: torch.Tensor | None     # (B, 2); None without a sentence objective


class PretrainingLoss(NamedTuple):
    mlm_loss: torch.Tensor              # (): cross-entropy (nats) with the labels, summed
    mlm_correct: torch.Tensor           # (): how many labels have the largest logit
    sop_logits: torch.Tensor | None     # (B, 2); None without a sentence objective


class QuestionAnsweringOutput(NamedTuple):
    start_logits: torch.Tensor          # (B, T)
    end_logits: torch.Tensor            # (B, T)


class Albert(PretrainedModel):
    """The encoder without a task: returns hidden states (B, T, H) and the pooled first token (B, H).

    `pooler=False` leaves the pooler out and returns None in its place.
    """

    def __init__(self, config: AlbertConfig, pooler: bool = True):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if pooler else None
        initialize(self, config)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None,
                attention_mask: torch.Tensor | None = None,
                positions: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """With positions (M,), indices into the flattened (B · T) tokens, the hidden states are theirs, (M, H), and the
        last layer computes no others but those of the first tokens."""
        mask = None if attention_mask is None else attention_mask.bool().expand_as(input_ids)
        embedded = self.embeddings(input_ids, token_type_ids)
        if positions is None:
            hidden = self.encoder(embedded, mask)
            first = hidden[:, 0]
        else:
            rows, length = input_ids.shape
            starts = torch.arange(rows, device=input_ids.device) * length
            kept = self.encoder(embedded, mask, partial(_at, torch.cat([starts, positions])))
            first, hidden = kept[:rows], kept[rows:]
        return hidden, None if self.pooler is None else torch.tanh(self.pooler(first))

    def pool(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None,
             attention_mask: torch.Tensor | None) -> torch.Tensor:
        """The pooled first token (B, H) alone."""
        return self(input_ids, token_type_ids, attention_mask, input_ids.new_empty(0))[1]


def _at(positions: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    return rearrange(hidden, "b t h -> (b t) h").index_select(0, positions)


class AlbertForPretraining(PretrainedModel):
    """Masked language modelling and sentence order (or next sentence) prediction.

    With sentence_objective="none" there is no pooler and no sentence head.
    """

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.config = config
        sentences = config.sentence_objective != "none"
        self.albert = Albert(config, pooler=sentences)
        self.mlm_head = MaskedLMHead(config)
        dropout = config.classifier_dropout_prob if config.model_type == "albert" else 0.0          # as Transformers has it
        self.sentence_head = ClassificationHead(config.hidden_size, 2, dropout) if sentences else None
        initialize(self.mlm_head, config)
        if sentences:
            initialize(self.sentence_head, config)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None,
                attention_mask: torch.Tensor | None = None,
                masked_positions: torch.Tensor | None = None,
                mlm_labels: torch.Tensor | None = None) -> PretrainingOutput | PretrainingLoss:
        """masked_positions (M,): indices into the flattened (B · T) tokens, the only ones for which the MLM head, and what
        the last layer has after its attention, is computed. mlm_labels (M,), only together with these: the tokens that
        stood there; then a PretrainingLoss is returned, for which on a CPU the (M, V) logits are never held at once."""
        if mlm_labels is not None:
            if masked_positions is None or len(masked_positions) != len(mlm_labels):
                raise ModelError("mlm_labels: one for each of masked_positions is wanted")
            masked_positions = F.pad(masked_positions, (0, -len(masked_positions) % ROWS))
        hidden, pooled = self.albert(input_ids, token_type_ids, attention_mask, masked_positions)
        sop_logits = None if pooled is None else self.sentence_head(pooled)
        word_embeddings = self.albert.embeddings.word_embeddings.weight
        if mlm_labels is not None:
            return PretrainingLoss(*self.mlm_head.loss(hidden, word_embeddings, mlm_labels), sop_logits)
        return PretrainingOutput(self.mlm_head(hidden, word_embeddings), sop_logits)


class AlbertForSequenceClassification(PretrainedModel):
    """Logits (B, num_labels) from the pooled first token; regression has one label."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.config = config
        self.albert = Albert(config)
        self.classifier = ClassificationHead(config.hidden_size, config.num_labels,
                                             config.classifier_dropout_prob)
        initialize(self.classifier, config)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None,
                attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.classifier(self.albert.pool(input_ids, token_type_ids, attention_mask))


class AlbertForTokenClassification(PretrainedModel):
    """Logits (B, T, num_labels) for every token."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.config = config
        self.albert = Albert(config, pooler=False)
        self.classifier = ClassificationHead(config.hidden_size, config.num_labels,
                                             config.classifier_dropout_prob)
        initialize(self.classifier, config)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None,
                attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.classifier(self.albert(input_ids, token_type_ids, attention_mask)[0])


class AlbertForQuestionAnswering(PretrainedModel):
    """Logits (B, T) of the answer's first token and of its last."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.config = config
        self.albert = Albert(config, pooler=False)
        self.span_head = ClassificationHead(config.hidden_size, 2)
        initialize(self.span_head, config)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None,
                attention_mask: torch.Tensor | None = None) -> QuestionAnsweringOutput:
        logits = self.span_head(self.albert(input_ids, token_type_ids, attention_mask)[0])
        return QuestionAnsweringOutput(*logits.unbind(dim=-1))


class AlbertForMultipleChoice(PretrainedModel):
    """Logits (B, C), one a choice; the inputs are (B, C, T)."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.config = config
        self.albert = Albert(config)
        self.classifier = ClassificationHead(config.hidden_size, 1, config.classifier_dropout_prob)
        initialize(self.classifier, config)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None,
                attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        inputs = (None if tensor is None else rearrange(tensor, "b c t -> (b c) t")
                  for tensor in (input_ids, token_type_ids, attention_mask))
        logits = self.classifier(self.albert.pool(*inputs))
        return rearrange(logits, "(b c) 1 -> b c", b=input_ids.shape[0])
