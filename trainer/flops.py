"""Floating-point operations of training and of the machine, for the model FLOP/s utilisation (MFU) of the log."""
import re
import time

import torch

# Dense peaks of the tensor cores in bf16 or fp16, operations a second, from NVIDIA's data sheets.
# Names that go on otherwise (H100 NVL, RTX 3090 Ti, RTX 4090 Laptop GPU) are other GPUs, or a part of one (MIG): measured.
_PEAKS = {"B200": 2.25e15, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12,
          "L40": 181e12, "L4": 121e12, "A10": 125e12, "V100": 125e12, "T4": 65e12, "RTX 4090": 165e12, "RTX 3090": 71e12}


def flops_per_token(config, seq_len, mask_prob, read):
    """Operations of one forward and backward pass over a token of a row of ``seq_len``: 6 for each weight of a matrix
    product (Kaplan et al. 2020, section 2.1) and 3 times those of attention. Shared layers count each time they run.
    ``mask_prob`` of the tokens come to the MLM head; ``read``, a share too, are computed in the last layer after its
    attention.

    Norms, activations, softmax and the pseudo-inverse are left out, as is usual.
    """
    hidden, size = config.hidden_size, config.embedding_size
    # as many keys of softmax attention come to the products of a token; Performer's features take no gradient
    keys = {"nystrom": 2 * config.num_landmarks, "linformer": 2 * config.num_landmarks,
            "performer": 5 / 3 * config.num_features, "linear": config.head_dim,
            "local": min(config.attention_window, seq_len),
            "mra": min(config.block_size * config.blocks_per_row, seq_len)}.get(config.attention, seq_len)
    attention, rest = 3 * hidden ** 2 + 2 * keys * hidden, hidden ** 2 + 2 * hidden * config.intermediate_size
    layers = config.num_hidden_layers * config.inner_group_num
    projection = size * hidden if config.projects_embeddings else 0
    head = mask_prob * size * (hidden + config.vocab_size)
    return 6 * (layers * attention + (layers - 1 + read) * rest + projection + head)


def peak_flops(device, dtype):
    """Operations a second that the device can reach: from the data sheet of a known GPU, else measured, the best of a few
    products of matrices."""
    dtype = dtype or torch.float32
    if device.type == "cuda" and dtype != torch.float32:
        name = torch.cuda.get_device_name(device)
        known = next((peak for part, peak in _PEAKS.items() if re.search(rf"\b{part}\b(?! (NVL|Ti|D|Laptop)\b|.* MIG )", name)), None)
        if known is not None:
            return known
    size = 4096 if device.type == "cuda" else 768
    return matmul_flops(device, dtype, size, size, size)


def matmul_flops(device, dtype, rows, inner, columns, repeats=6):
    """Operations a second of the product of (rows, inner) and (inner, columns), the best of several."""
    left, right, out = (torch.randn(shape, device=device).to(dtype)
                        for shape in ((rows, inner), (inner, columns), (rows, columns)))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * rows * inner * columns / best
