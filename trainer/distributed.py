"""The processes of a run, as ``torchrun`` starts them; one process where it does not."""
import os
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """Where this process stands: its number, how many there are, and its device."""
    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self):
        return self.rank == 0

    def sum(self, values):
        """Sums of a list of numbers over all processes: float64, so that token counts stay exact."""
        values = list(values)
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, items):
        """The items of all processes in one list."""
        if self.size == 1:
            return list(items)
        parts = [None] * self.size
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def sum_gradients(self, params):
        """Add up the gradients of all processes in one exchange; a process without a micro-batch adds zeros."""
        if self.size == 1:
            return
        for p in params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.flatten() for p in params])
        dist.all_reduce(flat)
        for p, grad in zip(params, flat.split([p.numel() for p in params])):
            p.grad.copy_(grad.view_as(p))

    @contextmanager
    def main_first(self):
        """Run a block in process 0, then in the others, which find what it has left on disk."""
        if not self.is_main:
            self.barrier()
        try:
            yield
        finally:
            if self.is_main:
                self.barrier()

    def barrier(self):
        if self.size > 1:
            dist.barrier()


def join(cpu=False):
    """The World of this process; with ``cpu`` the GPU is left alone."""
    local_rank, size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available() and not cpu
    if cuda:
        torch.cuda.set_device(local_rank)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    return World(int(os.environ.get("RANK", 0)), size, device)
