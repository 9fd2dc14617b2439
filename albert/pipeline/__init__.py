"""Answers from a checkpoint, in one line:

    fill = pipeline("fill-mask", "runs/pretrain-...")
    fill("the [MASK] sat on the mat")

A pipeline takes one input, or a list of them, and returns a dictionary, or a list of them in the same order. An input
is a text or, for the tasks of several texts, a tuple of them. A single text that is longer than the model, or than the rows
that it was fine-tuned on, is read in windows that overlap by a quarter (a context in one every `doc_stride` tokens); "windows"
says in how many. Of two texts the longer one is cut, and "cut" says so. An empty input is answered by an empty dictionary.
"""
import inspect
from pathlib import Path

import torch

from albert.config import AlbertConfig
from albert.errors import ModelError
from albert.files import read_json
from albert.pipeline.base import Pipeline
from albert.pipeline.tasks import Answer, Choose, Classify, Embed, FillMask, Pair, SentenceOrder, Tag, is_regression
from albert.pretrained import checkpoint_folder, head_of, read_config, read_finetuned
from albert.quiet import quiet

TASKS = {"fill-mask": FillMask, "sentence-order": SentenceOrder, "embed": Embed, "classify": Classify, "pair": Pair,
         "regress": Classify, "tag": Tag, "qa": Answer, "choose": Choose}


def pipeline(task: str | None, checkpoint, device: str | None = None, precision: str = "fp32",
             quantize: str | None = None, **options) -> Pipeline:
    """The pipeline of a task over a checkpoint: a run folder, a checkpoint folder, or a folder or hub name in the
    Hugging Face layout.

    task: one of `TASKS`, or None for what the checkpoint was made for. device: "cuda" where there is one. precision:
    fp32, or bf16 or fp16 autocast. quantize: "int8" has the encoder's products computed in 8 bits, on a CPU, which needs
    the package torchao. options: of the task, see its `set`. Raises ModelError for a task that is unknown or that the
    checkpoint can't do, and for an option that the task does not have.
    """
    folder = checkpoint_folder(checkpoint)
    config = read_config(folder)
    abilities = (*_abilities(folder, config), "embed")
    task = task or abilities[0]
    if task not in TASKS:
        raise ModelError(f"task {task}: choose from {', '.join(TASKS)}")
    if task not in abilities:
        unknown = "" if "architectures" in read_json(folder / "config.json") else "; its config.json names no architectures"
        raise ModelError(f"{checkpoint}: it can't do {task}; it can do {', '.join(abilities)}{unknown}")
    dtypes = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        raise ModelError(f"precision={precision}: there are {', '.join(dtypes)}")
    if quantize not in (None, "int8"):
        raise ModelError(f"quantize={quantize}: there is int8")
    if quantize and precision != "fp32":
        raise ModelError(f"quantize={quantize} goes with precision=fp32, not {precision}")
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if quantize and device.type != "cpu":
            raise ModelError(f"quantize={quantize} is for a CPU, not {device}: on a GPU take precision=bf16")
        torch.zeros((), device=device).item()                    # one that is there and computes
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(f"device={device}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)              # it would prepare itself anew for each shape of a batch
    if unknown := sorted(options.keys() - inspect.signature(TASKS[task].set).parameters):
        raise ModelError(f"task {task}: no option '{unknown[0]}'")
    made = TASKS[task](folder, config, device, dtypes[precision], **options)
    if quantize:
        _to_int8(made.model)
    return made


def _to_int8(model: torch.nn.Module):
    """Have the encoder's linear layers multiply int8 weights (a scale for each output) by int8 inputs (a scale for each
    token, found as they come). The heads, the embeddings and all else stay in float32."""
    try:
        with quiet():                                       # it reports kernels for GPUs that it can't load
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError:
        raise ModelError("quantize=int8 needs the package torchao: pip install torchao") from None
    quantize_(model, Int8DynamicActivationInt8WeightConfig(),
              lambda part, name: isinstance(part, torch.nn.Linear) and ".encoder." in f".{name}")


def _abilities(folder: Path, config: AlbertConfig) -> tuple[str, ...]:
    """The tasks of the heads that a checkpoint names, the first where none is asked for."""
    head = head_of(folder)
    if head == "sequenceclassification":
        alone = "regress" if is_regression(config) else "classify"
        return ("pair", alone) if "pair" in read_finetuned(folder).get("inputs", ()) else (alone, "pair")
    if head == "pretraining":
        return ("fill-mask",) if config.sentence_objective == "none" else ("fill-mask", "sentence-order")
    return {"maskedlm": ("fill-mask",), "nextsentenceprediction": ("sentence-order",), "tokenclassification": ("tag",),
            "questionanswering": ("qa",), "multiplechoice": ("choose",)}.get(head, ())
