"""The encoder's products, GELU, softmax attention and dropout for training on a CPU: the formulas of `albert`, with
fewer passes over memory. In bf16 all of them; in float32, where the products are all but alone, what has to do with dropout.

* oneDNN runs a product of about a thousand rows and columns on one of two cores: such products are cut in two.
* Adding a bias is a pass over the output, and GELU by tanh takes longer than the product before it: both are computed on
  pieces that stay in the cache, in float32, with the derivative, which the backward pass then only multiplies by.
* Every use of a shared weight makes a gradient of the weight's size that is added to the others: products add to one.
* `scaled_dot_product_attention` looks for rows without any key in passes of their own, in float32 where there is dropout;
  here no row is without.
* PyTorch's dropout takes a draw for each number; on a processor that is not Intel's that was 23 % of BERT's step.
"""
import math
from functools import partial
from types import MethodType

import torch
from einops import rearrange
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from albert.attention.softmax import SoftmaxAttention, visible_keys
from albert.encoder import ACTIVATIONS

_BADLY_CUT = 2 ** 19, 5 * 2 ** 18      # entries of an output between which oneDNN may leave a core idle
_PIECE = 2 ** 18                       # entries that GELU computes at a time: 1 MB in float32
_LONGEST = 1024                        # tokens up to which attention keeps all its weights


def fuse(model, dtype):
    """Have ``model`` compute so in ``dtype``, in training and evaluation; attention only of up to `_LONGEST` tokens."""
    if dtype == torch.bfloat16:
        _fuse_products(model.albert.encoder)
    for module in model.modules():
        if isinstance(module, SoftmaxAttention):
            module.forward = MethodType(_attention, module)
        elif isinstance(module, torch.nn.Dropout):
            module.forward = MethodType(_dropout_module, module)


def _fuse_products(encoder):
    layers = []

    def take(function, *linears):
        for linear in linears:
            layers.append(_Layer(linear))
            linear.forward = partial(_apply, function, layers[-1])

    for block in encoder.attention:
        take(_Linear, block.query, block.key, block.value, block.output)
    for block in encoder.feed_forward:
        take(_Linear, block.output)
        with_gelu = block.activation is ACTIVATIONS["gelu_new"]
        take(_LinearGELU if with_gelu else _Linear, block.intermediate)
        if with_gelu:
            block.activation = torch.nn.Identity()

    def begin(*_):
        for layer in layers:
            layer.begin()

    encoder.register_forward_pre_hook(begin)


class _Layer:
    """A linear layer's parameters in bf16, cast once a forward pass, and what stands for them in it."""

    def __init__(self, linear):
        self.linear = linear

    def begin(self):
        """Begin a forward pass. No cast is kept for the next: PyTorch's fused optimisers change parameters unseen, without
        a new version number."""
        weight, bias = self.linear.weight, self.linear.bias
        self.weight, self.bias = weight.detach().bfloat16(), bias.detach().bfloat16()
        self.transposed = self.weight.t().contiguous()
        self.uses = _Uses()
        self.token = _Parameters.apply(weight, bias, self.uses)


class _Uses:
    """The gradients of a layer's parameters, summed over its uses in one forward pass."""
    weight = bias = None

    def add(self, grad, inputs):
        """grad (M, N), that of a use's output, and its inputs (M, K)."""
        sums = (grad.new_ones(1, len(grad)) @ grad)[0].float()       # as a product half the time of a sum
        if self.weight is None:
            self.weight, self.bias = grad.t() @ inputs, sums
        else:
            self.weight.addmm_(grad.t(), inputs)
            self.bias.add_(sums)


class _Parameters(Function):
    """A number that stands for a layer's parameters in the graph: its backward comes after those of all uses."""

    @staticmethod
    def forward(ctx, weight, bias, uses):
        ctx.uses = uses
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx, _):
        return ctx.uses.weight.float(), ctx.uses.bias, None


def _apply(function, layer, inputs):
    rows = rearrange(inputs, "... k -> (...) k").bfloat16()
    with torch.autocast("cpu", enabled=False):
        outputs = function.apply(rows, layer.token, layer.uses, layer.weight, layer.transposed, layer.bias)
    return outputs.view(*inputs.shape[:-1], -1)


class _Linear(Function):
    """inputs (M, K) to inputs Wᵀ + b (M, N)."""

    @staticmethod
    def forward(ctx, inputs, token, uses, weight, transposed, bias):
        ctx.uses = uses
        ctx.save_for_backward(inputs, weight)
        return _product(inputs, transposed).add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        inputs, weight, *slopes = ctx.saved_tensors
        if slopes:
            grad = grad * slopes[0]
        if ctx.needs_input_grad[1]:
            ctx.uses.add(grad, inputs)
        return _product(grad, weight) if ctx.needs_input_grad[0] else None, grad.new_zeros(()), None, None, None, None


class _LinearGELU(_Linear):
    """inputs (M, K) to GELU by tanh (M, N) of inputs Wᵀ + b."""

    @staticmethod
    def forward(ctx, inputs, token, uses, weight, transposed, bias):
        ctx.uses = uses
        outputs = _product(inputs, transposed)
        slopes, rows = torch.empty_like(outputs), max(_PIECE // len(bias), 1)
        for output, slope in zip(outputs.split(rows), slopes.split(rows)):
            value, derivative = gelu_new(output.float().add_(bias))
            output.copy_(value)
            slope.copy_(derivative)
        ctx.save_for_backward(inputs, weight, slopes)
        return outputs


def gelu_new(x):
    """GELU by tanh (Hendrycks & Gimpel 2016, section 2) and its derivative, both of the shape of ``x``, which is lost.

    (1 + tanh u) / 2 is the logistic function of 2u: x s(2u) with 2u = x (a + c x²), and s + x s (1 - s) (a + 3c x²).
    """
    a, c = x.new_tensor(math.sqrt(8 / math.pi)), math.sqrt(8 / math.pi) * 0.044715
    factor = torch.addcmul(a, x, x, value=c)
    share = (factor * x).sigmoid_()
    value = x.mul_(share)
    rest = torch.addcmul(value, value, share, value=-1)
    return value, torch.addcmul(share, rest, torch.add(-2 * a, factor, alpha=3, out=factor), out=rest)


def _product(left, right):
    """left (M, K) @ right (K, N)."""
    rows, columns = len(left), right.shape[1]
    if not _BADLY_CUT[0] < rows * columns <= _BADLY_CUT[1]:
        return left @ right
    output = left.new_empty(rows, columns)
    for part, out in zip(left.chunk(2), output.chunk(2)):
        torch.mm(part, right, out=out)
    return output


def _attention(self, query, key, value, mask=None):
    dropped = self.training and self.dropout > 0
    if query.shape[2] > _LONGEST or key.shape[2] > _LONGEST or query.dtype == torch.float32 and not dropped:
        return SoftmaxAttention.forward(self, query, key, value, mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    if mask is not None:
        visible = visible_keys(mask)
        scores += scores.new_zeros(visible.shape).masked_fill_(~visible, -torch.inf)      # one pass; a fill takes two
    weights = scores.softmax(dim=-1)
    return (dropout(weights, self.dropout) if dropped else weights) @ value


def _dropout_module(self, inputs):
    return dropout(inputs, self.p) if self.training else inputs


def dropout(inputs, rate):
    """``inputs`` of any shape, each number made 0 with probability ``rate`` (to 2⁻¹⁷), the others divided by the share
    kept. A draw of 64 bits from PyTorch's generator decides on four numbers."""
    dropped = round(rate * 2 ** 16)
    if not 0 < dropped < 2 ** 16:
        return torch.dropout(inputs, rate, True)
    drawn = torch.empty(-(-inputs.numel() // 4), dtype=torch.int64).random_(-2 ** 63, None).view(torch.int16)
    factors = torch.ge(drawn[:inputs.numel()].view(inputs.shape), dropped - 2 ** 15, out=torch.empty_like(inputs))
    return inputs * factors.mul_(2 ** 16 / (2 ** 16 - dropped))
