import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

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
        return F.linear(self.transform(hidden), word_embeddings, self.bias)

    def transform(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden (..., H) to what the decoder takes (..., E)."""
        return self.norm(self.activation(self.dense(hidden)))

    def loss(self, hidden: torch.Tensor, word_embeddings: torch.Tensor,
             labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy (nats, summed) of the logits of hidden (at least M, H) with labels (M,), and how many labels have
        the largest logit: what `forward` leads to, in blocks, so that on a CPU its (M, V) matrix is never held. Rows past M
        have no part in it."""
        inputs, device = self.transform(hidden), hidden.device.type
        if torch.is_autocast_enabled(device):
            inputs = inputs.to(torch.get_autocast_dtype(device))
        decoder = word_embeddings, self.bias
        if not torch.is_grad_enabled():                     # a Function cannot see it: parameters "need" a gradient always
            decoder = tuple(part.detach() for part in decoder)
        # Logits in float32 at a time: 2 MB stay in a core's cache; on a GPU a kernel's start costs more (not measured).
        piece = 2 ** 26 if device == "cuda" else 2 ** 19
        with torch.autocast(device, enabled=False):
            return DecodedCrossEntropy.apply(inputs, *decoder, labels, piece)


class DecodedCrossEntropy(Function):
    """Cross-entropy over a vocabulary, with its gradient formed as the loss is: d loss / d logits = softmax - one-hot."""

    @staticmethod
    def forward(ctx, inputs, weight, bias, labels, piece):
        """inputs (at least M, E), weight (V, E), bias (V,), labels (M,) to (loss, correct); see `MaskedLMHead.loss`.
        Products are of the type of the inputs, all else of float32 at least. Rows past M have no part in the loss."""
        differentiate, size, weight = any(ctx.needs_input_grad), len(weight), weight.to(inputs.dtype)
        precise = torch.promote_types(inputs.dtype, torch.float32)
        loss, correct = inputs.new_zeros((), dtype=precise), labels.new_zeros(())
        inputs_grad, bias_grad, weight_grad = torch.empty_like(inputs), torch.zeros_like(bias, dtype=precise), None
        block = max(8 * piece // size // 64, 1) * 64      # tokens whose products are computed together
        for start in range(0, len(inputs), block):
            part = slice(start, start + block)
            logits = inputs[part] @ weight.T
            wanted, rows = labels[part], max(piece // size, 1)
            logits[len(wanted):] = 0
            for piece_logits, label in zip(logits[:len(wanted)].split(rows), wanted.split(rows)):
                scores, label = piece_logits.to(precise, copy=True).add_(bias), label[:, None]
                scores -= scores.amax(dim=-1, keepdim=True)
                margin = scores.gather(1, label)        # 0 where the label's logit is the largest, else less
                correct += (margin == 0).sum()
                loss -= margin.sum()
                total = scores.exp_().sum(dim=-1, keepdim=True)
                loss += total.log().sum()
                if differentiate:
                    scores /= total
                    scores.scatter_add_(1, label, scores.new_full((), -1).expand_as(label))
                    bias_grad += scores.sum(dim=0)
                    piece_logits.copy_(scores)
            if differentiate:
                torch.mm(logits, weight, out=inputs_grad[part])
                product = (logits.T @ inputs[part]).to(precise)
                weight_grad = product if weight_grad is None else weight_grad.add_(product)
        if weight_grad is None:                         # no token, or nothing to differentiate
            weight_grad = weight.new_zeros((), dtype=precise).expand(weight.shape)
        ctx.save_for_backward(inputs_grad, weight_grad, bias_grad)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        return *(part * grad for part in ctx.saved_tensors), None, None


class ClassificationHead(nn.Module):
    """Dropout and a linear layer: (..., H) to logits (..., labels)."""

    def __init__(self, hidden_size: int, labels: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, labels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(hidden)
        if not torch.is_autocast_enabled(hidden.device.type):
            return self.linear(hidden)
        with torch.autocast(hidden.device.type, enabled=False):       # bf16 has but 8 bits: 4.03125, 4.0625, ...
            return self.linear(hidden.to(self.linear.weight.dtype))
