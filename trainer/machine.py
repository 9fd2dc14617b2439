"""What this machine is, what it computes in, and how its memory is used."""
import ctypes
import importlib.metadata
import os
import platform
import resource
import shlex
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

import torch

from trainer.errors import RunError

_PACKAGES = ("torch", "numpy", "tokenizers", "datasets", "safetensors", "einops", "sentencex")


def keep_freed_memory():
    """Have the C allocator (glibc's; elsewhere nothing happens) keep what is freed for the next step.

    By default it returns large blocks to the kernel at once, and a training step on a CPU then spends 10 to 40 %
    of its time on page faults.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    m_trim_threshold, m_mmap_max = -1, -4
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)


def multiplies_bf16(device):
    """Whether the machine has instructions for bf16; without them a CPU is tens of times slower in it than in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return any(check is not None and check() for check in checks)


def autocast_dtype(precision, device):
    """The dtype to compute in, or None for float32. ``auto`` is bf16 where the machine has instructions for it."""
    if precision == "auto":
        precision = "bf16" if multiplies_bf16(device) else "fp32"
    dtypes = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        raise RunError(f"precision={precision}: there are auto, fp32, bf16 and fp16")
    if precision == "fp16" and device.type == "cpu":
        raise RunError("precision=fp16 needs a GPU: on a CPU write --set precision=bf16 or fp32 (with --init-from, where the "
                       "run began in fp16)")
    return dtypes[precision]


def workers():
    """How many processes this one may tokenise with: as many as its threads, of which torchrun gives it one by default, or as
    its share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return max(torch.get_num_threads(), cores // int(os.environ.get("LOCAL_WORLD_SIZE", cores)))


def end_with_parent(number):
    """Have the system send this process the signal of that number once its parent has ended. Linux alone can."""
    with suppress(OSError, AttributeError):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


def moved(batch, device):
    """A micro-batch on ``device``. A mask that hides nothing stays behind: a GPU would have to be waited for to see it."""
    batch = {name: tensor for name, tensor in batch.items() if name != "attention_mask" or not tensor.all()}
    if device.type == "cuda":                                   # from other memory a copy may wait for the GPU
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def autocast(dtype, device):
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def peak_memory(device):
    """Bytes: the most that tensors on a GPU have taken so far; on a CPU the most that the process has."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def choose_attention_backend(dtype, device, seq_len):
    """On a CPU in bf16, compute softmax attention over short rows by plain products; on a GPU, not by cuDNN.

    PyTorch's fused CPU kernel takes two to four times as long there in its backward pass (up to 256 tokens; from
    512 on the two are even). cuDNN's kernel, which PyTorch prefers on recent GPUs, gave NaN gradients under a mask
    (https://github.com/pytorch/pytorch/issues/196678), and prepares itself anew for each length.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    plain = device.type == "cpu" and dtype == torch.bfloat16 and seq_len <= 256
    torch.backends.cuda.enable_flash_sdp(not plain)                       # rules the CPU kernel too
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(plain)


def command():
    """The command of this process."""
    return shlex.join([os.path.basename(sys.executable), *sys.argv])


def environment(device):
    """What a run was made with: versions, machine, git commit, command."""
    return {
        "command": command(),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
    }


def _git_commit():
    try:
        answer = subprocess.run(["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty", "--abbrev=40"],
                                capture_output=True, text=True, timeout=10)
        return answer.stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def _processor():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
