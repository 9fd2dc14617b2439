"""Several run folders in one table and one picture: python bench/compare.py RUN RUN ... --output compared.png

The table has what the runs were set to differently, their last scores (held out, at the best step where runs have one), and
tokens a second. The picture has the curves over the tokens read.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trainer.command import leave_with
from trainer.errors import RunError
from trainer.run import over_tokens, run_config

_ASIDE = ("asked", "text_sha256", "fingerprint", "cache_dir", "launch")             # of a config: what no one sets
_COUNTS = ("kind", "step", "tokens", "learning_rate", "gradient_norm", "loss_scale", "skipped_steps", "tokens_per_second",
           "mfu", "data_wait_share", "peak_memory")


def read_log(run):
    try:
        return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RunError(f"{run / 'log.jsonl'}: {error}") from None


def row_of(run, records):
    """{column: value} of a run: steps, tokens, speed, and the scores of its best evaluation: the one that the
    metrics.json of a fine-tuning names, else by loss."""
    training = [record for record in records if record["kind"] == "train"]
    scored = [record for record in records if record["kind"] == "eval"]
    row = {"step": records[-1]["step"], "tokens": records[-1]["tokens"]} if records else {}
    if training:
        row["tokens/s"] = round(float(np.median([record["tokens_per_second"] for record in training])))
    if scored:
        file = run / "metrics.json"
        chosen = json.loads(file.read_text(encoding="utf-8")).get("best_step") if file.exists() else None
        best = next((record for record in scored if record["step"] == chosen),
                    min(scored, key=lambda record: record["loss"]))
        row["best step"] = best["step"]
        row |= {name: value for name, value in best.items() if name not in _COUNTS}
    return row


def table(names, rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [["run", *columns]] + [[name, *(f"{row[c]:.4f}" if isinstance(row.get(c), float) else str(row.get(c, ""))
                                            for c in columns)] for name, row in zip(names, rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.ljust(width) if not place else cell.rjust(width)
                               for place, (cell, width) in enumerate(zip(line, widths))) for line in cells)


def draw(path, names, logs):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    scores = list(dict.fromkeys(name for log in logs for record in log for name in record if name not in _COUNTS))
    if not scores:
        raise RunError("none of the runs has logged a score yet")
    columns = min(len(scores), 4)
    lines = -(-len(scores) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(4.5 * columns, 3.8 * lines + 0.25 * len(names)),
                                   layout="constrained", squeeze=False)
    colors = pyplot.get_cmap("tab10" if len(names) <= 10 else "turbo", len(names) if len(names) > 10 else None)
    for axis in axes.flat[len(scores):]:
        axis.axis("off")
    drawn = {}
    for axis, score in zip(axes.flat, scores):
        for number, (name, log) in enumerate(zip(names, logs)):
            for kind, style in (("train", dict(alpha=0.35)), ("eval", dict(marker="o", markersize=3))):
                points = [(record["tokens"], record[score]) for record in log if record["kind"] == kind and score in record]
                if points:
                    drawn[name], = axis.plot(*zip(*points), color=colors(number), **style)
        over_tokens(axis, score)
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", fontsize="small")
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--output", type=Path, default=Path("compared.png"), help="the picture (default: compared.png)")
    args = parser.parse_args()
    for other in [path for path in args.runs if not (path / "config.json").is_file()]:
        if len(args.runs) > 1:
            print(f"passing over {other}: no run there", file=sys.stderr)
            args.runs.remove(other)
    configs = [run_config(run) for run in args.runs]
    different = [key for key in configs[0] if key not in _ASIDE and any(
        config.get(key) != configs[0][key] for config in configs)]
    logs = [read_log(run) for run in args.runs]
    names = [run.resolve().name for run in args.runs]
    set_to = [{key: f"{value:g}" if isinstance(value := config.get(key), float) else value for key in different}
              for config in configs]
    print(table(names, [{**values, **row_of(run, log)} for values, run, log in zip(set_to, args.runs, logs)]))
    draw(args.output, names, logs)
    print(f"curves: {args.output}")
    return 0


if __name__ == "__main__":
    leave_with(main)
