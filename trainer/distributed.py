"""The processes of a run, as ``torchrun`` starts them; one process where it does not."""
import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from trainer.errors import RunError

_PATIENCE = timedelta(days=2)          # of what waits for text to be prepared
_EXCHANGE = timedelta(minutes=30)      # gloo's default, for NCCL too: others may be compiling a shape that is new to them


@dataclass(frozen=True)
class World:
    """Where this process stands: its number, how many there are, and its device."""
    rank: int
    size: int
    device: torch.device
    counting: object = None            # gloo group for sums of numbers: waits for no GPU, notices at once who is gone
    patient: object = None             # gloo group for objects and barriers: these may wait, `_PATIENCE`, for the text

    @property
    def is_main(self):
        return self.rank == 0

    def print(self, *lines):
        """Print lines, where there are any, in process 0 alone."""
        if self.is_main and lines:
            print(*lines, sep="\n", flush=True)

    def sum(self, values):
        """Sums of a list of numbers over all processes: float64, so that token counts stay exact."""
        values = list(values)
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        with self._others_there():
            dist.all_reduce(tensor, group=self.counting)
        return tensor.tolist()

    def gather(self, items):
        """The items of all processes in one list."""
        if self.size == 1:
            return list(items)
        parts = [None] * self.size
        with self._others_there():
            dist.all_gather_object(parts, items, group=self.patient)
        return [item for part in parts for item in part]

    def from_main(self, make):
        """What ``make()`` returns in process 0, in all of them."""
        made, = self.gather([make()] if self.is_main else [])
        return made

    def sum_gradients(self, params):
        """Add up the gradients of all processes in one exchange; a process without a micro-batch adds zeros."""
        if self.size == 1:
            return
        for p in params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.flatten() for p in params])
        with self._others_there():
            dist.all_reduce(flat)
        for p, grad in zip(params, flat.split([p.numel() for p in params])):
            p.grad.copy_(grad.view_as(p))

    def spread(self, tensors):
        """Give all processes the tensors of the first one: other machines may draw weights that differ in their last bits."""
        if self.size > 1:
            with self._others_there():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

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
            with self._others_there():
                dist.barrier(group=self.patient)

    @contextmanager
    def _others_there(self):
        """RunError where another process is gone, or where NCCL fails."""
        try:
            yield
        except dist.DistBackendError as error:     # NCCL's: all its lines, of which the last says what is wrong
            raise RunError(f"process {self.rank} of {self.size} can't exchange gradients: {' '.join(str(error).split())}; what "
                           "was saved before is untouched: go on with --resume") from None
        except RuntimeError as error:              # gloo's and the store's; a GPU's own and a batch worker's are no loss
            if isinstance(error, torch.AcceleratorError) or "DataLoader worker" in str(error):
                raise
            reason = str(error).strip().partition("\n")[0].partition(". ")[0]
            raise RunError(f"process {self.rank} of {self.size} has lost another one, which was killed or has failed "
                           f"({reason}); what was saved before is untouched: go on with --resume") from None


def join(cpu=False):
    """The World of this process; with ``cpu`` the GPU is left alone."""
    local_rank, size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available() and not cpu
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        if local_rank >= torch.cuda.device_count():
            raise RunError(f"process {local_rank} of this machine finds {torch.cuda.device_count()} GPUs: start no more "
                           "processes than GPUs, or add --cpu")
        torch.cuda.set_device(device)
        try:
            torch.zeros((), device=device).item()          # fails where PyTorch was not built for the GPU
        except RuntimeError as error:
            raise RunError(f"{torch.cuda.get_device_name(device)}: {str(error).splitlines()[0]}; install the build of PyTorch for "
                           "this GPU (https://pytorch.org/get-started), or add --cpu") from None
    if size == 1:
        return World(0, 1, device)
    if not dist.is_initialized():
        store, rank, size = next(dist.rendezvous("env://"))
        if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
            # After a restart torchrun hands on the same store, with the addresses of the processes that are gone.
            store = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        agree(store, rank, size, device.type)
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=_EXCHANGE)
    world = World(dist.get_rank(), size, device, dist.new_group(backend="gloo"),
                  dist.new_group(backend="gloo", timeout=_PATIENCE))
    if cuda:
        with world._others_there():                # NCCL starts here, and not hours later after the text is prepared
            dist.all_reduce(torch.zeros(1, device=device))
            torch.cuda.synchronize(device)
    return world


def agree(store, rank, size, kind):
    """RunError unless all processes found the same kind of device: one that has none would wait for the others in vain."""
    store.set(f"device-{rank}", kind)
    kinds = [store.get(f"device-{other}").decode() for other in range(size)]
    if other := next((other for other in range(size) if kinds[other] != kinds[0]), None):
        raise RunError(f"process 0 computes on {kinds[0]} and process {other} on {kinds[other]}: see why (nvidia-smi), or add "
                       "--cpu")


def leave():
    """Undo `join` at the end of the work."""
    if dist.is_initialized():
        dist.destroy_process_group()
