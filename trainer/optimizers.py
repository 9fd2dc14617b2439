"""LAMB, Muon, the optimisers of each recipe, and the learning-rate schedule."""
import torch

from trainer.errors import RunError
from trainer.machine import multiplies_bf16


class LAMB(torch.optim.Optimizer):
    """Layer-wise Adaptive Moments for Batch training (You et al. 2020, algorithm 2; arXiv:1904.00962).

    Bias-corrected Adam with decoupled weight decay, whose update of each tensor is scaled by the trust ratio
    ‖w‖ / ‖update‖; in groups with ``adapt=False`` (biases and LayerNorms in the release) the ratio is 1.
    """

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, adapt=True):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, adapt=adapt))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p] = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p),
                                     "exp_avg_sq": torch.zeros_like(p)}
            states = [self.state[p] for p in params]
            grads = [p.grad for p in params]
            averages = [s["exp_avg"] for s in states]
            squares = [s["exp_avg_sq"] for s in states]
            (beta1, beta2), decay = group["betas"], group["weight_decay"]
            for state in states:
                state["step"] += 1
            step = states[0]["step"].item()
            torch._foreach_lerp_(averages, grads, 1 - beta1)
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
            denominator = torch._foreach_sqrt(squares)
            torch._foreach_mul_(denominator, (1 - beta2 ** step) ** -0.5)
            torch._foreach_add_(denominator, group["eps"])
            updates = torch._foreach_div(averages, denominator)
            torch._foreach_mul_(updates, 1 / (1 - beta1 ** step))
            torch._foreach_add_(updates, params, alpha=decay)
            if group["adapt"]:
                weight_norms = torch.stack(torch._foreach_norm(params))
                update_norms = torch.stack(torch._foreach_norm(updates))
                ratios = torch.where((weight_norms > 0) & (update_norms > 0), weight_norms / update_norms, 1.0)
                torch._foreach_mul_(updates, list(ratios.unbind()))
            torch._foreach_add_(params, updates, alpha=-group["lr"])


class Muon(torch.optim.Muon):
    """PyTorch's Muon (Jordan et al. 2024) with its products in bf16 only where the machine multiplies bf16, else in float32.

    Of its options ``nesterov`` and ``adjust_lr_fn`` have their defaults, whatever is given.
    """

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                average = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(average, group["momentum"])
                update = orthogonal(update.bfloat16() if multiplies_bf16(p.device) else update,
                                    group["ns_coefficients"], group["ns_steps"], group["eps"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1, len(p) / p.shape[1]) ** 0.5)


def orthogonal(matrix, coefficients, steps, eps):
    """About U Vᵀ of the singular value decomposition U S Vᵀ of ``matrix``, by the quintic Newton-Schulz iteration of
    https://kellerjordan.github.io/posts/muon/, which leaves singular values between about 0.7 and 1.2."""
    a, b, c = coefficients
    tall = len(matrix) > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def build_optimizers(model, hps):
    """The optimisers of ``hps.optimizer`` over the parameters of ``model``, as a list.

    Biases and LayerNorms (every tensor of one axis) are not decayed. ``muon`` takes the weights of the linear
    layers (of the encoder, the embeddings' projection, the pooler, the MLM head's dense layer) and leaves the rest
    (embeddings, the last layer of a head, biases, norms, convolutions) to AdamW.
    """
    muon = []
    if hps.optimizer == "muon":
        muon = [part.weight for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)
                and part.weight.requires_grad and not name.endswith(".linear")]          # that of a ClassificationHead
    taken = set(map(id, muon))
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    groups = [dict(params=[p for p in rest if p.ndim > 1], weight_decay=hps.weight_decay),
              dict(params=[p for p in rest if p.ndim <= 1], weight_decay=0.0)]
    adam = dict(lr=hps.learning_rate, betas=(hps.adam_beta1, hps.adam_beta2), eps=hps.adam_eps)
    if hps.optimizer == "lamb":
        optimizers = [LAMB([groups[0], dict(groups[1], adapt=False)], **adam)]
    elif hps.optimizer in ("adamw", "muon"):
        optimizers = [torch.optim.AdamW(groups, **adam, fused=True)]
        if muon:                                           # none where all linear layers but the last are frozen
            optimizers.insert(0, Muon(muon, lr=hps.muon_learning_rate, weight_decay=hps.weight_decay))
    else:
        raise RunError(f"optimizer={hps.optimizer}: there are lamb, adamw and muon")
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]          # what the schedule scales
    return optimizers


def schedule(step, warmup_steps, max_steps):
    """Share of the learning rate at update ``step`` (from 1): linear warm-up, then linear decay to 0. The last update of the
    warm-up, or the first where there is none, has all of it."""
    warmup_steps = max(warmup_steps, 1)
    if step <= warmup_steps:
        return step / warmup_steps
    return (max_steps - step + 1) / (max_steps - warmup_steps + 1)
