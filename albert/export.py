"""Models for other programs: ONNX, and programs of torch.export. Batch and length stay free."""
import io
from pathlib import Path

import torch
from torch import nn

from albert.config import AlbertConfig
from albert.errors import ModelError
from albert.files import write_whole
from albert.models import (Albert, AlbertForMultipleChoice, AlbertForPretraining, AlbertForQuestionAnswering,
                           AlbertForSequenceClassification, AlbertForTokenClassification)
from albert.names import expressible
from albert.pretrained import PretrainedModel, checkpoint_folder, head_of
from albert.quiet import quiet

OPSET = 20
TOLERANCE = 1e-4
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
KINDS = {"pretraining": AlbertForPretraining, "maskedlm": AlbertForPretraining,
         "sequenceclassification": AlbertForSequenceClassification, "questionanswering": AlbertForQuestionAnswering,
         "tokenclassification": AlbertForTokenClassification, "multiplechoice": AlbertForMultipleChoice}


def whole_model(checkpoint) -> PretrainedModel:
    """The model of a checkpoint with the head that it was made for."""
    folder = checkpoint_folder(checkpoint)
    head = head_of(folder)
    if head and head not in KINDS:
        raise ModelError(f"{folder / 'config.json'}: architectures: the head {head} can't be exported; those that can are "
                         f"{', '.join(KINDS)}")
    changes = {"sentence_objective": "none"} if head == "maskedlm" else {}
    return KINDS.get(head, Albert).from_pretrained(folder, **changes)


class Plain(nn.Module):
    """A model as a function of three tensors (B, T) of int64 (multiple choice: (B, C, T)) to a tuple of tensors."""

    def __init__(self, model: PretrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids, token_type_ids, attention_mask):
        out = self.model(input_ids, token_type_ids, attention_mask)
        return tuple(part for part in out if part is not None) if isinstance(out, tuple) else (out,)


def lengths(config: AlbertConfig) -> tuple[int, int]:
    """The shortest and the longest row, padding included, that a program of the model takes.

    Kinds of attention that compute short rows by another path have programs for longer ones alone: Nyström above
    num_landmarks tokens, MRA above block_size · blocks_per_row, local attention above half its window (one chunk). Raises
    ModelError where the model has no more positions than that.
    """
    short = {"nystrom": config.num_landmarks, "mra": config.block_size * config.blocks_per_row,
             "local": config.attention_window // 2}
    least, longest = short.get(config.attention, 1) + 1, config.max_position_embeddings
    if least >= longest:
        raise ModelError(f"a program of {config.attention} attention takes texts of more than {least - 1} tokens, and the model "
                         f"has {longest} positions: switch to softmax attention first")
    return least, longest


def program(model: PretrainedModel) -> torch.export.ExportedProgram:
    """The model in evaluation mode as a program with free batch and length."""
    least, longest = lengths(model.config)
    free = {0: torch.export.Dim("batch", min=1, max=1 << 16), 1: torch.export.Dim("length", min=least, max=longest)}
    if isinstance(model, AlbertForMultipleChoice):
        free = {0: free[0], 1: torch.export.Dim("choices", min=1, max=1 << 8), 2: free[1]}
    example = examples(model, 2, max(least, min(16, longest)))
    with torch.no_grad():
        return torch.export.export(Plain(model.eval()), example, dynamic_shapes=dict.fromkeys(INPUTS, free),
                                   prefer_deferred_runtime_asserts_over_guards=True)


def examples(model: PretrainedModel, rows: int, length: int) -> tuple[torch.Tensor, ...]:
    """Inputs of that shape, of the last row an eighth tokens and the rest padding, drawn from a fixed seed."""
    draw = torch.Generator().manual_seed(0)
    shape = (rows, 3, length) if isinstance(model, AlbertForMultipleChoice) else (rows, length)
    ids = torch.randint(model.config.vocab_size, shape, generator=draw)
    mask = torch.ones_like(ids)
    mask[-1, ..., max(length // 8, 1):] = 0
    return ids, torch.zeros_like(ids), mask


def output_names(model: PretrainedModel) -> list[str]:
    """The names of what the model puts out."""
    with torch.no_grad():
        out = model(*examples(model, 1, min(16, model.config.max_position_embeddings)))
    if not isinstance(out, tuple):
        return ["logits"]
    names = getattr(out, "_fields", ("hidden", "pooled"))
    return [name for name, part in zip(names, out) if part is not None]


def write(model: PretrainedModel, kind: str, folder: Path) -> str:
    """Write the model into ``folder`` as ``kind``, "onnx", "torch" or "hf"; returns a line that says what was written."""
    if kind == "onnx":
        file = folder / "model.onnx"
        return f"{file}: differs from PyTorch by {export_onnx(model, file):.0e} at most"
    if kind == "torch":
        export_torch(model, folder / "model.pt2")
        return f"{folder / 'model.pt2'}: for torch.export.load"
    model.save_pretrained(folder)
    return f"{folder}: " + ("for 🤗 Transformers too" if expressible(model.config) else
                            "for this repository alone; 🤗 Transformers cannot express its attention, convolution, norms or "
                            "sharing")


def export_torch(model: PretrainedModel, file: Path):
    """Write the program that `torch.export.load` reads."""
    exported = program(model)
    content = io.BytesIO()
    torch.export.save(exported, content)
    write_whole(file, lambda path: path.write_bytes(content.getbuffer()))


def export_onnx(model: PretrainedModel, file: Path) -> float:
    """Write an ONNX model and compare it with PyTorch by onnxruntime: returns the largest difference of any output over
    batches of other sizes than the one it was made with.

    Raises ModelError where the packages onnx, onnxscript and onnxruntime are missing, or the difference is above
    `TOLERANCE`; nothing is written then.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise ModelError(f"--export onnx needs {error.name}: pip install onnx onnxscript onnxruntime") from None
    with quiet():                                           # it tells of operators of torchvision and of its own future
        exported = torch.onnx.export(program(model), input_names=list(INPUTS), output_names=output_names(model),
                                     opset_version=OPSET, verbose=False)
    differences = []

    def write(path):
        exported.save(path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        longest = model.config.max_position_embeddings
        for rows, length in ((1, longest), (3, longest - longest // 3)):
            inputs = examples(model, rows, length)
            with torch.no_grad():
                expected = Plain(model)(*inputs)
            found = session.run(None, {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs)})
            differences.extend(float((torch.from_numpy(ours) - theirs).abs().max())
                               for ours, theirs in zip(found, expected, strict=True))
        if max(differences) > TOLERANCE:
            raise ModelError(f"{file}: onnxruntime's answers differ from PyTorch's by {max(differences):.1e}")
    write_whole(file, write)
    return max(differences)
