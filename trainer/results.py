"""What a finished run leaves beside its checkpoints, and says: metrics.json, predictions.csv, how to ask the model."""
import csv
import shlex

import numpy as np

from albert.files import write_json, write_whole
from data.tokenizer import special_ids
from trainer import checkpoints
from trainer.command import how_to_call
from trainer.errors import RunError


def finish(trainer, run, task_name, test):
    """The held-out scores of the best step, its checkpoint and files left in the folder of ``run``.

    The best checkpoint is the only one left. Without a folder the scores are those logged at that step.
    test: {file: Features} of `TaskData.test`.
    """
    best = trainer.best["step"]
    if run.path is None:
        evaluations = [record for record in run.records if record["kind"] == "eval"]
        return next((record for record in evaluations if record["step"] == best), None)
    path = run.checkpoints / f"step-{best:07d}"
    fault = trainer.world.from_main(lambda: _damage(path))
    if fault:
        best = trainer.best["step"] = trainer.step
        trainer.save(again=True)
        trainer.world.print(f"passing over the best checkpoint, it is damaged: {fault}; step {best} is kept instead")
    else:
        trainer.model.load_state_dict(type(trainer.model).from_pretrained(path).state_dict())
    trainer.world.barrier()                      # before the first process deletes what another may still read
    task = trainer.task
    means, outputs = trainer.predict(task.evaluation())
    scores = {**means, **task.metrics(outputs)}
    submissions = {name: trainer.predict(task.evaluation(features))[1] for name, features in test.items()}
    if not trainer.world.is_main:
        return scores
    try:
        if "threshold" in scores:
            trainer.model.finetuned |= {"threshold": scores["threshold"]}
            checkpoints.rewrite_config(run.checkpoints / f"step-{best:07d}", trainer.model)
        write_predictions(run.path / "predictions.csv", task.predictions(outputs, task.data.dev))
        for name, content in task.files(outputs).items():
            write_json(run.path / name, content)
        for name, outputs in submissions.items():
            rows = [row[:2] for row in task.predictions(outputs, task.data.test[name])]
            if task.data.kind == "regression":            # the benchmark's server takes no score outside of the scale
                least, most = min(task.data.train.labels), max(task.data.train.labels)
                rows = [(index, min(max(value, least), most)) for index, value in rows]
            write_table(run.path / f"{name}.tsv", [("index", "prediction"), *rows], dialect="excel-tab",
                        lineterminator="\n")
        write_json(run.path / "metrics.json", {
            "task": task_name, **run.commands(),
            "best_step": best, "steps": trainer.step, "seed": trainer.hps.seed,
            "train_examples": len(task.data.train), "dev_examples": len(task.data.dev), "dev": scores,
            "notes": task.data.notes})
    except OSError as error:
        raise RunError(f"{error.filename}: {error.strerror}") from None
    checkpoints.prune(run.checkpoints, 0, best, trainer.step)
    return scores


def report(trainer, run, scores):
    """Print the scores of a fine-tuned run and how to ask its model."""
    print(f"\nbest of step {trainer.best['step']}: {trainer.task.summary(scores)}")
    if run.path is not None:
        files = ", ".join(["predictions.csv", *(f"{name}.tsv" for name in trainer.task.data.test)])
        print(f"run folder:   {run.path}\npredictions:  {files} in it\n"
              f"ask it:       {how_to_call('main-inference.py')} {shlex.quote(str(run.path))} ...")


def _damage(path):
    """What is wrong with a checkpoint; None where nothing is."""
    try:
        checkpoints.verified_state(path)
    except RunError as fault:
        return str(fault)


def write_predictions(path, rows):
    """id, prediction, probability: .csv of the examples in their order, written whole or not at all."""
    write_table(path, [("id", "prediction", "probability"), *(
        (name, prediction, probability if probability == "" else f"{probability:.6f}")
        for name, prediction, probability in rows)])


def write_table(path, rows, **layout):
    """Write rows in a ``layout`` of `csv.writer`, whole or not at all. By csv's own line ends a cell with a lone carriage
    return is quoted."""
    def write(temporary):
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, **layout).writerows(rows)

    write_whole(path, write)


def table(results, metrics):
    """Lines of one table: for each setting of [(setting, scores)] the mean over its runs of every score whose name ends
    in a metric's, and the standard deviation where there are several."""
    settings = list(dict.fromkeys(setting for setting, _ in results))
    names = [name for name in results[0][1] if name.endswith(metrics)]
    width = max(len("setting"), *map(len, settings))
    lines = ["  ".join([f"{'setting':{width}}", "runs", *(f"{name.replace('_', ' '):>19}" for name in names)])]
    for setting in settings:
        runs = [scores for name, scores in results if name == setting]
        cells = []
        for name in names:
            values = np.array([scores[name] for scores in runs])
            spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{f'{values.mean():.4f}{spread}':>19}")
        lines.append("  ".join([f"{setting:{width}}", f"{len(runs):4}", *cells]))
    return "\n".join(lines)


def compare(results, metrics):
    """Print the table of several runs, [(setting, scores, folder)], and which was the best."""
    print(f"\n{table([result[:2] for result in results], metrics)}")
    *_, best = max(results, key=lambda result: result[1][metrics[0]])
    if best is not None:
        print(f"best run: {best}")


def finish_pretraining(trainer, run, scores, model_name):
    """Write metrics.json and say what was learned and how to go on."""
    best, mask = trainer.best, trainer.tokenizer.id_to_token(special_ids(trainer.tokenizer).mask)
    print(f"\n{trainer.task.summary(scores)}")
    if best["step"] != trainer.step:
        print(f"the least held-out loss, {best['loss']:.3f}, was that of step {best['step']}, which is kept too")
    if run.path is not None:
        write_json(run.path / "metrics.json", {
            "task": "pretrain", **run.commands(), "steps": trainer.step, "seed": trainer.hps.seed, "dev": scores,
            "best": {name: best[name] for name in ("step", "loss")}})
        text = f"the {mask} of the file" if trainer.hps.language == "en" else f"TEXT WITH {mask} IN IT"
        print(f"run folder:  {run.path}\ncurves:      {run.path / 'curves.png'}\nask it:\n"
              f"  {how_to_call('main-inference.py')} {shlex.quote(str(run.path))} {shlex.quote(text)}")
    print(f"next, on text of your own:\n  {how_to_call()} --model {model_name} --data FOLDER_OF_TEXT_FILES")
