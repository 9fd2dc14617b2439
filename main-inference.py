"""Ask a checkpoint: python main-inference.py runs/pretrain-... "the [MASK] sat on the mat" """
import argparse
import os
import signal
import sys
from pathlib import Path

from tqdm import tqdm

from albert import ModelError, checkpoint_folder, pipeline
from data.asking import argument_rows, fields_of, file_rows, has_lines, names_a_file
from data.errors import DataError
from data.output import WRITERS, Output, check_output, write_table
from trainer import machine
from trainer.command import leave_with


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="run folder, or folder or hub name in the Hugging Face layout")
    parser.add_argument("inputs", nargs="*", metavar="TEXT",
                        help="texts (for tasks of several texts all of them, one after the other), a file (.txt with "
                             "one a line, .csv, .tsv, .jsonl, .parquet), or - for lines from standard input; texts of "
                             "one line are parted by tabs")
    parser.add_argument("--task", help="fill-mask, sentence-order, embed, classify, pair, regress, tag, qa or choose "
                                       "(default: what the checkpoint was made for)")
    parser.add_argument("--text", help="column of the (first) text in a file, for tag also of lists of words (default: "
                                       "text; of two texts: first; qa: question; choose: article)")
    parser.add_argument("--text-pair", help="column of the second text (default: second; qa: context; choose: "
                                            "question)")
    parser.add_argument("--format", choices=list(WRITERS), help="default: table for texts, jsonl for files and lines")
    parser.add_argument("--output", type=Path, metavar="FILE", help=".jsonl or .csv, or .npy for embed, in place of "
                                                                    "standard output")
    parser.add_argument("--append", action="store_true", help="go on where --output ends: its rows are not asked again")
    parser.add_argument("--interactive", action="store_true", help="ask at a prompt")
    parser.add_argument("--export", choices=["onnx", "torch", "hf"],
                        help="write the model into the folder --output: as ONNX, as a program of torch.export, or in the "
                             "Hugging Face layout")
    parser.add_argument("--top-k", type=int, help="fill-mask: how many predictions a mask (default 5)")
    parser.add_argument("--pooling", help="embed: mean or pooled (default mean)")
    parser.add_argument("--normalize", action="store_true", default=None, help="embed: to length 1")
    parser.add_argument("--threshold", type=float, help="qa: how far ahead no answer must be (default: what "
                                                        "fine-tuning found)")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or fp16 (default fp32)")
    parser.add_argument("--quantize", choices=["int8"], help="compute the encoder's products in 8 bits (needs torchao)")
    parser.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    parser.add_argument("--tqdm-off", action="store_true", help="no progress bar")
    args = parser.parse_intermixed_args()
    if args.export:
        if args.output is None or args.inputs:
            parser.error("--export onnx, torch or hf takes --output FOLDER and no texts")
        if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
            parser.error(f"--output {args.output}: it is there already, and no empty folder; name a new one")
        if args.quantize or args.precision != "fp32":
            parser.error("--export writes the model in float32: leave --quantize and --precision out")
        return args
    if not args.inputs and not args.interactive:
        parser.error("give a text, a file or -, or --interactive")
    if args.append and args.output is None:
        parser.error("--append goes on with the file that --output names")
    if args.interactive and sys.stdin is None:
        parser.error("--interactive: standard input is closed")
    if args.interactive and (args.inputs or args.output or args.format):
        parser.error("--interactive takes no texts, --output or --format")
    if args.output and args.format:
        parser.error("--output says the format by its suffix: leave --format out")
    args.from_file = len(args.inputs) == 1 and names_a_file(args.inputs[0])
    if args.append and not args.from_file:
        parser.error("--append goes on with the rows of a file or of -, not with texts")
    if (args.text or args.text_pair) and (not args.from_file or has_lines(args.inputs[0])):
        parser.error("--text and --text-pair name columns of a table; texts and lines have none")
    return args


def main():
    args = parse_arguments()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")             # as the input; the locale's may lack its characters
    machine.keep_freed_memory()
    if args.export:
        return export(args)
    if args.output:
        check_output(args.output, args.append, args.inputs[0])
    options = {name: getattr(args, name) for name in ("top_k", "pooling", "normalize", "threshold")
               if getattr(args, name) is not None}
    ask = pipeline(args.task, args.checkpoint, "cpu" if args.cpu else None, args.precision, args.quantize, **options)
    if args.text_pair and len(ask.inputs) == 1:
        raise ModelError("--text-pair: this task takes one text")
    if args.output and args.output.suffix == ".npy" and "embedding" not in ask.columns:
        raise ModelError(f"--output {args.output}: .npy is for --task embed; take .jsonl or .csv")
    try:
        return converse(ask) if args.interactive else answer_all(args, ask)
    except BrokenPipeError:              # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as fault:             # of a write it names no file
        fault.filename = fault.filename or str(args.output or "standard output")
        raise


def answer_all(args, ask):
    source = args.inputs[0]
    rows = file_rows(source, ask.inputs, args.text, args.text_pair, "entities" in ask.columns) if args.from_file else \
        argument_rows(args.inputs, ask.inputs)
    fields = fields_of(source, ask.inputs) if args.from_file else ask.inputs
    output = Output(args.output, args.append, fields, ask.columns, ask.config.hidden_size)
    bar = tqdm(output.left(rows), unit="row", initial=output.done, leave=False, dynamic_ncols=True,
               disable=args.tqdm_off or not args.from_file or not sys.stderr.isatty())
    name = f"{source}: {'line' if has_lines(source) else 'row'}" if args.from_file else "input"
    output.write(answered(ask, bar, output.done, name), args.format or ("jsonl" if args.from_file else "table"))
    return 0


def answered(ask, rows, done, name):
    """(columns to keep, answer) of each row, in order; rows are (columns, inputs), ``done`` came before them. In errors a row
    is called ``name`` and its number."""
    kept = []

    def inputs():
        for columns, item in rows:
            kept.append(columns)
            yield item

    for answer in ask.stream(inputs(), done + 1, name):
        yield kept.pop(0), answer


def export(args):
    """Write the model and its tokenizer for other programs into a folder."""
    from albert.export import lengths, whole_model, write
    from albert.pretrained import save_config
    from data.tokenizer import for_masks, load_tokenizer, save_tokenizer

    folder = checkpoint_folder(args.checkpoint)
    model = whole_model(folder)
    print(write(model, args.export, args.output))
    save_config(model, args.output)                      # with the names of the labels
    tokenizer = load_tokenizer(folder)
    if hasattr(model, "mlm_head"):
        tokenizer, _ = for_masks(tokenizer)
    save_tokenizer(tokenizer, args.output, model.config.max_position_embeddings)
    if args.export != "hf":
        print("rows of {} to {} tokens, padding included".format(*lengths(model.config)))
    return 0


def converse(ask):
    """Ask and answer at a prompt until the end of input."""
    while True:
        try:
            item = [input(f"{name}> ") for name in ask.inputs]
        except EOFError:
            print()
            return 0
        except UnicodeDecodeError:
            print("that is not UTF-8")
            continue
        if ask.inputs[-1] == "options":
            item[-1] = [option.strip() for option in item[-1].split("|") if option.strip()]
        try:
            write_table(sys.stdout, [({}, ask(tuple(item)))])
        except (DataError, ModelError) as fault:
            print(str(fault).removeprefix("input 1: "))


if __name__ == "__main__":
    leave_with(main)
