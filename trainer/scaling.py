"""Loss scaling for float16."""
import math

import torch


class LossScaler:
    """Dynamic loss scaling (Micikevicius et al. 2018, section 3.2): an update whose gradient is not finite is left out
    and the scale halved; after ``patience`` good ones it is doubled. Powers of two, so that scaling rounds nothing.

    PyTorch's GradScaler judges each optimiser by its own gradients; here two of them share one norm, and one verdict.
    """
    least = 2.0 ** -13                 # below it training has diverged; fairseq gives up at 1e-4

    def __init__(self, enabled, scale=2.0 ** 16, patience=2000):
        self.enabled, self.scale, self.good, self.patience = enabled, scale if enabled else 1.0, 0, patience

    def unscale(self, params):
        grads = [p.grad for p in params if p.grad is not None]
        if self.enabled and grads:
            torch._foreach_mul_(grads, 1 / self.scale)

    def accepts(self, norm):
        """Whether an update with this gradient norm is to be made; adapts the scale. Waits for the device."""
        if not self.enabled:
            return True
        finite = math.isfinite(norm)
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.good == self.patience:
            self.scale, self.good = self.scale * 2, 0
        return finite

    @property
    def gives_up(self):
        return not self.enabled or self.scale < self.least

    def state_dict(self):
        return {"scale": self.scale, "good": self.good}

    def load_state_dict(self, state):
        self.scale, self.good = state["scale"], state["good"]
