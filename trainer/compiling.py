"""torch.compile for training, with static shapes."""
import os
import shutil

import torch
import torch.nn.functional as F

from trainer.errors import RunError

_LENGTHS = 8             # different lengths of a batch that are compiled for


def compile_blocks(model, seq_len, device):
    """Compile the encoder's blocks, each for every shape that it meets: ALBERT's shared block once for all layers.

    Batches are padded to one of a few lengths on their way through the encoder; no result depends on padding. Returns a
    line that says what was done. Raises RunError where there is no compiler, which PyTorch needs on a CPU and Triton on a GPU.
    """
    compilers = [os.environ.get("CXX", "g++")] if device.type == "cpu" else [os.environ.get("CC", "cc"), "gcc", "clang"]
    if not any(map(shutil.which, compilers)):
        raise RunError(f"compile=true needs a compiler of C or C++ ({', '.join(compilers)}: not there); --set compile=false")
    # PyTorch counts compilations: for each length training and scoring, a full and a last micro-batch (of an epoch, with any
    # number of rows), with and without a mask, inputs in the type of the embeddings and in that of a LayerNorm
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 64 * _LENGTHS
    encoder, width, undone = model.albert.encoder, -(-seq_len // (8 * _LENGTHS)) * 8, []
    positions = model.config.max_position_embeddings

    def pad(module, inputs):
        hidden, mask, keep = (*inputs, None, None)[:3]
        batch, length, _ = hidden.shape
        undone.append((length, keep))
        missing = min(-length % width, positions - length)      # Linformer has no weights for more
        if missing:
            mask = hidden.new_ones(batch, length, dtype=torch.bool) if mask is None else mask
            hidden, mask = F.pad(hidden, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        return hidden, mask, None                   # of the tokens that are kept each batch has another number

    def unpad(module, inputs, output):
        length, keep = undone.pop()
        return output[:, :length] if keep is None else keep(output[:, :length])

    encoder.register_forward_pre_hook(pad)
    encoder.register_forward_hook(unpad)
    blocks = [*encoder.attention, *encoder.feed_forward]
    for block in blocks:
        block.compile(dynamic=False)
    return (f"compile: {len(blocks)} blocks of the encoder, for lengths that are multiples of {width} tokens; the first "
            f"batch of each shape takes longer")
