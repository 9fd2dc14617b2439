"""main-finetune.py from a checkpoint and a task's files to scores, for every kind of task."""
import csv
import json
import os
import random
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import refused, script
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight

from albert import Albert, AlbertConfig, AlbertForPretraining, AlbertForSequenceClassification
from albert.attention import KINDS
from albert.checksums import check_sums, write_sums
from albert.pretrained import read_finetuned
from data.task_files import read_task
from data.tokenizer import load_tokenizer, save_tokenizer
from data.tokenizer_training import train_tokenizer
from hps import HPS
from trainer import checkpoints
from trainer.finetuning import class_weights, weighted_cross_entropy
from trainer.loop import Trainer
from trainer.results import table

SMALL = ["batch_size=8", "micro_batch_size=4", "max_steps=6", "warmup_steps=1", "save_every=2", "eval_every=3",
         "log_every=1", "seq_len=48", "learning_rate=1e-3", "precision=fp32"]
GOOD, BAD = "sun gold joy rose".split(), "rain rust grief thorn".split()
FILLER = "the a of and it was then here there".split()


def sentence(rng, words, length=8):
    return " ".join(rng.choice(words if rng.random() < 0.5 else FILLER) for _ in range(length))


def reviews(rng, number):
    return [(sentence(rng, words) + f" {words[0]}", label)
            for words, label in rng.choices([(GOOD, "good"), (BAD, "bad")], k=number)]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A new model of 4 layers with weights of their own, and a tokenizer of the words of these tests."""
    folder = tmp_path_factory.mktemp("checkpoint")
    rng = random.Random(0)
    text = [sentence(rng, GOOD + BAD + ["who", "lives", "in", "Anna", "Paris", "Rome", "Bob", "where"], 12)
            for _ in range(300)]
    tokenizer = train_tokenizer(text, "unigram", 150, 0, progress=False)
    torch.manual_seed(0)
    AlbertForPretraining(AlbertConfig(
        vocab_size=tokenizer.get_vocab_size(), embedding_size=16, hidden_size=32, num_hidden_layers=4,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=64, share="none",
    )).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """train.csv and dev.csv with the columns review, verdict, stars and second."""
    folder = tmp_path_factory.mktemp("tables")
    rng = random.Random(1)
    for name, number in (("train", 60), ("dev", 21)):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("review", "verdict", "stars", "second"))
            for text, label in reviews(rng, number):
                writer.writerow((text, label, {"good": 4.5, "bad": 1}[label], sentence(rng, GOOD)))
    return folder


def squad_file(path, rng, number, unanswerable):
    paragraphs = []
    for index in range(number):
        person, place = rng.choice(["Anna", "Bob"]), rng.choice(["Paris", "Rome"])
        before = sentence(rng, GOOD, 60)
        context = f"{before} {person} lives in {place} {sentence(rng, BAD, 10)}"
        gone = unanswerable and index % 3 == 0
        answer = {"text": place, "answer_start": context.index(place)}
        paragraphs.append({"context": context, "qas": [{
            "id": f"q{index}", "question": f"where lives {person}", "answers": [] if gone else [answer, answer],
            **({"is_impossible": gone} if unanswerable else {})}]})
    path.write_text(json.dumps({"version": "x", "data": [{"title": "t", "paragraphs": paragraphs}]}))


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory):
    """Files in the layouts of GLUE, SQuAD, RACE and CoNLL."""
    folder = tmp_path_factory.mktemp("benchmarks")
    rng = random.Random(2)
    for part in ("train", "dev"):
        number = 40 if part == "train" else 13
        for task, header, row in (
                ("SST-2", "sentence\tlabel", lambda t, y: f"{t}\t{y}"),
                ("STS-B", "index\tsentence1\tsentence2\tscore", lambda t, y: f"0\t{t}\t{t}\t{y * 2.5}"),
                ("RTE", "index\tsentence1\tsentence2\tlabel",
                 lambda t, y: f"0\t{t}\t{t}\t{['entailment', 'not_entailment'][y]}"),
                ("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", lambda t, y: f"{y}\t1\t2\t{t}\t{t}"),
                ("CoLA", None, lambda t, y: f"gj04\t{y}\t\t{t}")):
            (folder / task).mkdir(exist_ok=True)
            rows = [row(text, int(label == "good")) for text, label in reviews(rng, number)]
            (folder / task / f"{part}.tsv").write_text("\n".join(([header] if header else []) + rows) + "\n")
        for version, unanswerable in (("v1.1", False), ("v2.0", True)):
            squad_file(folder / f"{part}-{version}.json", rng, number, unanswerable)
        lines = []
        for _ in range(number):
            lines += [f"{word} x {'B-LOC' if word in GOOD else 'O'}" for word in sentence(rng, GOOD).split()] + [""]
        (folder / f"{part}.txt").write_text("\n".join(lines))
        for level in ("middle", "high"):
            (folder / "race" / part / level).mkdir(parents=True)
            for index in range(6):
                article = {"id": f"{level}{index}", "article": sentence(rng, GOOD, 20),
                           "questions": ["who lives", "where"], "options": [["sun", "rain", "rust", "joy"]] * 2,
                           "answers": [rng.choice("ABCD"), "B"]}
                (folder / "race" / part / level / f"{index}.txt").write_text(json.dumps(article))
    mnli = folder / "MNLI"
    mnli.mkdir()
    for part in ("train", "dev_matched", "dev_mismatched"):
        rows = [f"{text}\t{text}\t{'entailment' if label == 'good' else 'neutral'}" for text, label in reviews(rng, 20)]
        (mnli / f"{part}.tsv").write_text("\n".join(["sentence1\tsentence2\tgold_label", *rows]) + "\n")
    return folder


def arguments(checkpoint, runs, task, *flags, settings=()):
    sets = [part for setting in (*SMALL, *settings) for part in ("--set", setting)]
    return ["--task", task, "--init-from", str(checkpoint), "--runs-dir", str(runs),
            "--cache-dir", str(runs / "cache"), "--cpu", "--tqdm-off", *map(str, flags), *sets]


def run_folders(runs):
    return sorted(path for path in runs.iterdir() if path.name.startswith("finetune-"))


def read_run(runs):
    run, = run_folders(runs)
    metrics = json.loads((run / "metrics.json").read_text())
    with open(run / "predictions.csv", newline="") as file:
        return run, metrics, list(csv.DictReader(file))


def test_a_configuration_is_rewritten_with_its_checksum(checkpoint, tmp_path):
    path = tmp_path / "step-0000001"
    shutil.copytree(checkpoint, path)
    write_sums(path)
    (path / ".DS_Store").touch()
    model = Albert.from_pretrained(path)
    model.finetuned = {"inputs": ["question", "context"], "threshold": 0.5}
    checkpoints.rewrite_config(path, model)
    check_sums(path)
    assert read_finetuned(path) == model.finetuned and list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_whose_successor_does_not_get_its_name_stays(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "step-0000001"
    shutil.copytree(checkpoint, path)
    write_sums(path)
    model, rename = Albert.from_pretrained(path), os.replace
    renamed = []

    def replace(old, new):
        renamed.append(str(old))
        if len(renamed) == 2:
            raise OSError("no more names")
        rename(old, new)
    model.finetuned = {"inputs": ["question", "context"]}
    monkeypatch.setattr(checkpoints, "save_config", lambda model, folder: None)        # which renames a file too
    monkeypatch.setattr(checkpoints.os, "replace", replace)
    with pytest.raises(OSError):
        checkpoints.rewrite_config(path, model)
    check_sums(path)
    assert len(renamed) == 3 and list(tmp_path.iterdir()) == [path]


def own(tables, *flags):
    return ["--data", tables / "train.csv", "--dev", tables / "dev.csv", "--text", "review", *flags]


@pytest.mark.parametrize("task, metrics, examples", [
    ("sst2", {"accuracy"}, 13), ("cola", {"matthews", "accuracy"}, 13), ("rte", {"accuracy"}, 13),
    ("mrpc", {"f1", "accuracy"}, 13), ("stsb", {"pearson", "spearman"}, 13),
    ("mnli", {"accuracy", "matched_accuracy", "mismatched_accuracy"}, 40),
    ("squad", {"f1", "exact_match"}, 13), ("squad2", {"f1", "exact_match", "threshold"}, 13),
    ("race", {"accuracy", "middle_accuracy", "high_accuracy"}, 24), ("ner", {"f1", "precision", "recall"}, 13),
])
def test_every_benchmark(checkpoint, benchmarks, tmp_path, finetune, task, metrics, examples):
    data = benchmarks / "race" if task == "race" else benchmarks
    weights = ["class_weights=balanced"] if task == "ner" else []
    result = finetune(arguments(checkpoint, tmp_path, task, "--data", data, settings=["doc_stride=16", *weights]))
    assert result.code == 0, result.err
    run, saved, predictions = read_run(tmp_path)
    assert metrics <= set(saved["dev"]) and saved["task"] == task and "main-finetune.py" in saved["command"]
    assert len(predictions) == examples and list(predictions[0]) == ["id", "prediction", "probability"]
    assert (run / "curves.png").stat().st_size > 0
    assert (run / "nbest.json").exists() == task.startswith("squad")
    if task.startswith("squad"):
        nbest = json.loads((run / "nbest.json").read_text())
        assert list(nbest) == [row["id"] for row in predictions]
        for row, candidates in zip(predictions, nbest.values()):
            assert any(row["prediction"] == candidate["answer"] for candidate in candidates)
            assert sum(candidate["probability"] for candidate in candidates) == pytest.approx(1)
            assert ("" in [candidate["answer"] for candidate in candidates]) == (task == "squad2")
            assert candidates == sorted(candidates, key=lambda candidate: -candidate["score"])
    step, = checkpoints.listed(run / "checkpoints")
    assert int(step.name[5:]) == saved["best_step"] == checkpoints.verified_state(step)["step"]
    config = json.loads((run / "config.json").read_text())
    assert (config["task"], config["max_steps"]) == (task, 6)
    recipe, model = HPS[f"finetune-{task}", config["model"]], json.loads((step / "config.json").read_text())
    assert all(model[key] == getattr(recipe, key) for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"))
    assert model["finetuned"].get("threshold") == saved["dev"].get("threshold") and model["finetuned"]["doc_stride"] == 16


@pytest.mark.parametrize("task, flags, score", [
    ("classify", ["--label", "verdict"], "accuracy"), ("regress", ["--label", "stars"], "pearson"),
    ("pair", ["--label", "verdict", "--text-pair", "second"], "accuracy"),
])
def test_own_files_are_learnt(checkpoint, tables, tmp_path, finetune, task, flags, score):
    result = finetune(arguments(checkpoint, tmp_path, task, *own(tables, *flags),
                                settings=["max_steps=60", "eval_every=20", "max_epochs=20", "learning_rate=3e-3"]))
    assert result.code == 0, result.err
    _, saved, predictions = read_run(tmp_path)
    assert saved["dev"][score] > 0.9 and len(predictions) == 21
    if score == "accuracy":
        assert {row["prediction"] for row in predictions} == {"good", "bad"}
        assert all(0.5 <= float(row["probability"]) <= 1 for row in predictions)


def test_a_model_of_one_segment_trains(checkpoint, tables, tmp_path, finetune):
    config = json.loads((checkpoint / "config.json").read_text()) | {"type_vocab_size": 1}
    AlbertForPretraining(AlbertConfig.from_dict(config)).save_pretrained(tmp_path / "model")
    save_tokenizer(load_tokenizer(checkpoint), tmp_path / "model")
    result = finetune(arguments(tmp_path / "model", tmp_path, "pair", *own(tables, "--text-pair", "second", "--label", "verdict")))
    assert result.code == 0, result.err


@pytest.mark.parametrize("steps, best", [(3, 3), (12, None)])
def test_a_damaged_best_checkpoint_is_replaced(checkpoint, tables, tmp_path, finetune, monkeypatch, steps, best):
    """The weights of the last step are kept in its place, written anew where the last step is the best."""
    def fit(trainer, run):
        trained(trainer, run)
        log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
        found = max((record for record in log if record["kind"] == "eval"), key=lambda record: record["accuracy"])
        assert best in (None, found["step"])
        file = run.checkpoints / f"step-{found['step']:07d}" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"?")

    def predict(trainer, batches):
        assert not trainer.run._log.closed                     # with it goes the lock that keeps others out of the folder
        return predicted(trainer, batches)
    trained, predicted = Trainer.fit, Trainer.predict
    monkeypatch.setattr(Trainer, "fit", fit)
    monkeypatch.setattr(Trainer, "predict", predict)
    result = finetune(arguments(checkpoint, tmp_path, "classify", *own(tables, "--label", "verdict"),
                                settings=[f"max_steps={steps}", "max_epochs=9", "learning_rate=3e-3"]))
    assert result.code == 0 and "damaged" in result.out and f"step {steps} is kept" in result.out, result.err
    run, saved, _ = read_run(tmp_path)
    assert saved["best_step"] == steps
    kept, = checkpoints.listed(run / "checkpoints")
    assert kept.name == f"step-{steps:07d}" and checkpoints.verified_state(kept)["step"] == steps


def test_the_checkpoint_gives_the_predictions(checkpoint, tables, tmp_path, finetune):
    assert finetune(arguments(checkpoint, tmp_path, "classify", *own(tables, "--label", "verdict"))).code == 0
    run, _, predictions = read_run(tmp_path)
    model = AlbertForSequenceClassification.from_pretrained(run)
    assert model.config.id2label == {0: "bad", 1: "good"}
    from data.tokenizer import load_tokenizer
    text = list(csv.DictReader(open(tables / "dev.csv")))[3]["review"]
    encoding = load_tokenizer(run).encode(text)
    with torch.no_grad():
        probability = model(torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])).softmax(-1)[0]
    assert model.config.id2label[int(probability.argmax())] == predictions[3]["prediction"]
    assert float(probability.max()) == pytest.approx(float(predictions[3]["probability"]), abs=2e-6)


@pytest.mark.parametrize("task, folder, header, rows, outcomes", [
    ("cola", "CoLA", "index\tsentence", ["3\tsun gold", "1\train"], {"0", "1"}),
    ("rte", "RTE", "index\tsentence1\tsentence2", ["0\tsun\tgold"] * 5, {"entailment", "not_entailment"}),
    ("stsb", "STS-B", "index\tgenre\tsentence1\tsentence2", ["9\tx\tsun\tgold", "4\tx\t\train"], None),
])
def test_submissions(checkpoint, benchmarks, tmp_path, finetune, task, folder, header, rows, outcomes):
    data = tmp_path / "data"
    shutil.copytree(benchmarks / folder, data / folder)
    (data / folder / "test.tsv").write_text("\n".join([header, *rows]) + "\n")
    result = finetune(arguments(checkpoint, tmp_path, task, "--data", data,
                                settings=["class_weights=balanced"] * bool(outcomes)))
    assert result.code == 0 and f"{folder}.tsv" in result.out, result.err
    run, = run_folders(tmp_path)
    first, *lines = [line.split("\t") for line in (run / f"{folder}.tsv").read_text().splitlines()]
    assert first == ["index", "prediction"] and [line[0] for line in lines] == [row.split("\t")[0] for row in rows]
    assert {line[1] for line in lines} <= outcomes if outcomes else all(float(line[1]) for line in lines)


def test_submitted_scores_stay_on_the_scale(checkpoint, tmp_path, finetune):
    data = tmp_path / "STS-B"
    data.mkdir()
    for part in ("train", "dev"):
        (data / f"{part}.tsv").write_text("index\tsentence1\tsentence2\tscore\n" + "0\tsun\tgold\t4\n1\tsun\train\t5\n" * 8)
    (data / "test.tsv").write_text("index\tsentence1\tsentence2\n0\tsun\tgold\n")
    settings = ["learning_rate=0", "max_steps=2"]
    assert finetune(arguments(checkpoint, tmp_path, "stsb", "--data", data, settings=settings)).code == 0
    run, = run_folders(tmp_path)
    assert (run / "STS-B.tsv").read_text() == "index\tprediction\n0\t4.0\n"          # an untrained model says about 0


def test_rows_are_no_longer_than_the_model_unless_asked(checkpoint, tables, tmp_path, finetune):
    args = arguments(checkpoint, tmp_path, "classify", *own(tables, "--label", "verdict"))
    args[args.index("seq_len=48")] = "max_steps=2"
    result = finetune(args)
    assert result.code == 0 and "positions extended" not in result.out
    run, = run_folders(tmp_path)
    assert json.loads((run / "config.json").read_text())["seq_len"] == 64


def test_a_finished_run_and_options_without_a_meaning_are_refused(checkpoint, tables, tmp_path, finetune):
    flags = own(tables, "--label", "stars")
    refused(finetune(arguments(checkpoint, tmp_path, "regress", *flags, settings=["class_weights=balanced"])),
            "class_weights=balanced", "regression")
    result = finetune(arguments(checkpoint, tmp_path, "regress", *flags, "--sweep", "label_smoothing=0,0.1"))
    refused(result, "label_smoothing=0.1")
    assert "1 of 2" not in result.out                              # before the first run
    refused(finetune(arguments(checkpoint, tmp_path, "regress", *flags, settings=["label_smoothing=0.1"])),
            "label_smoothing")
    refused(finetune(arguments(checkpoint, tmp_path, "regress", *flags, settings=["max_epochs=0"])), "max_epochs=0")
    assert finetune(arguments(checkpoint, tmp_path, "regress", *flags)).code == 0
    run, = run_folders(tmp_path)
    refused(finetune(["--resume", str(run), "--cpu"]), "is finished", "--init-from")


def losses(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    timings = ("tokens_per_second", "data_wait_share", "mfu", "peak_memory")
    return [{k: v for k, v in r.items() if k not in timings} for r in records]


def test_killed_and_resumed_equals_uninterrupted(checkpoint, tables, tmp_path, finetune):
    flags = own(tables, "--label", "verdict")
    settings = ["hidden_dropout_prob=0.1", "max_steps=12", "eval_every=20"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert finetune(arguments(checkpoint, whole, "classify", *flags, settings=settings)).code == 0
    process = script("main-finetune.py", arguments(checkpoint, cut, "classify", *flags, settings=settings))
    for line in process.stdout:
        if line.startswith("step 5/"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close(), process.stderr.close()
    run, = run_folders(cut)
    assert not (run / "metrics.json").exists()
    refused(finetune(["--resume", str(run), "--set", "batch_size=16", "--cpu"]), "batch_size=8", "16")
    refused(finetune(["--resume", str(run), "--data", str(tables / "dev.csv"), "--cpu"]), "the data has changed")
    elsewhere = shutil.copy(tables / "train.csv", tmp_path / "elsewhere.csv")
    result = finetune(["--resume", str(run), "--data", str(elsewhere), "--cache-dir", str(cut / "cache"), "--cpu", "--tqdm-off"])
    assert result.code == 0, result.err
    other, saved, predictions = read_run(whole)
    assert "--task classify" in read_run(cut)[1]["command"] and "--resume" in read_run(cut)[1]["resumed_by"]
    assert losses(run) == losses(other) and read_run(cut)[2] == predictions and read_run(cut)[1]["dev"] == saved["dev"]
    ours, theirs = (load_file(folder / "checkpoints" / "step-0000012" / "model.safetensors") for folder in (run, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_seeds_and_sweep_end_in_one_table(checkpoint, tables, tmp_path, finetune):
    result = finetune(arguments(checkpoint, tmp_path, "classify", *own(tables, "--label", "verdict"), "--seeds", 2,
                                "--sweep", "learning_rate=1e-5,1e-3", "--no-save"))
    assert result.code == 0, result.err
    table = result.out.strip().splitlines()[-3:]
    assert table[0].split()[:4] == ["setting", "runs", "accuracy", "f1"]
    assert table[1].startswith("learning_rate=1e-5  ") and table[2].startswith("learning_rate=1e-3  ")
    assert table[1].split()[1] == "2" and "±" in table[1] and not run_folders(tmp_path)
    for values in ("learning_rate=1e-5,abc", "batch_size=8,0", "attention=softmax,foo", "learning_rate",
                   "learning_rate=1e-5,1e-5"):                                                       # refused before the first run
        result = finetune(arguments(checkpoint, tmp_path, "classify", *own(tables, "--label", "verdict"), "--sweep", values))
        refused(result, "attention='foo'" if "foo" in values else values.split("=")[0])
        assert not run_folders(tmp_path) and "--set learning_rate" not in result.err


def test_a_key_is_swept_once(checkpoint, tables, tmp_path, finetune):
    refused(finetune(arguments(checkpoint, tmp_path, "classify", *own(tables, "--label", "verdict"), "--sweep", "seed=1,2",
                               "--sweep", "seed=3,4")), "--sweep seed=3,4", "each key once")


def test_the_spread_over_seeds_is_that_of_a_sample():
    *_, row = table([("as set", {"accuracy": 0.8}), ("as set", {"accuracy": 0.9})], ("accuracy",)).splitlines()
    assert "0.8500 ± 0.0707" in row


def test_seeds_that_were_interrupted_go_on(checkpoint, tables, tmp_path, finetune):
    def call(folder, *flags):
        return arguments(checkpoint, folder, "classify", *own(tables, "--label", "verdict"), "--seeds", 3, *flags,
                         settings=["hidden_dropout_prob=0.1", "max_steps=12", "learning_rate=1e-3"])

    whole = finetune(call(tmp_path / "whole"))
    process = script("main-finetune.py", call(tmp_path / "cut"))
    steps = (line for line in process.stdout if line.startswith("step 5/"))
    next(steps), next(steps)                                                   # of the second run
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    command = said.split("go on with")[1].splitlines()[1]
    assert "--seeds 3" in command and command.endswith("--resume auto"), said
    result = finetune(call(tmp_path / "cut", "--resume", "auto"))
    assert result.code == 0, result.err
    assert result.out.count("finished before: ") == 1 and "it goes on from step" in result.out
    assert len(run_folders(tmp_path / "cut")) == 3
    assert result.out.strip().splitlines()[-3:-1] == whole.out.strip().splitlines()[-3:-1]
    again = finetune(call(tmp_path / "cut", "--resume", "auto"))
    assert again.out.count("finished before: ") == 3 and again.out.splitlines()[-3:] == result.out.splitlines()[-3:]
    result = finetune(call(tmp_path / "cut", "--resume", str(run_folders(tmp_path / "cut")[0])))
    assert result.code == 2 and "leave --sweep and --seeds out" in result.err


def test_a_sweep_names_its_runs_and_the_best(checkpoint, tables, tmp_path, finetune):
    result = finetune(arguments(checkpoint, tmp_path, "classify", *own(tables, "--label", "verdict"),
                                "--sweep", "learning_rate=0,3e-3", settings=["max_steps=60", "max_epochs=9"]))
    assert "learning_rate=3e-3, seed 0 (2 of 2)" in result.out, result.err
    *_, line = result.out.strip().splitlines()
    scores = {str(run): json.loads((run / "metrics.json").read_text())["dev"]["accuracy"] for run in run_folders(tmp_path)}
    assert line == f"best run: {max(scores, key=scores.get)}" and len(set(scores.values())) == 2


def test_what_was_trained_before_counts_for_the_same_data_and_checkpoint_alone(checkpoint, tables, tmp_path, finetune):
    model, data = tmp_path / "model", tmp_path / "data.csv"
    shutil.copytree(checkpoint, model)
    data.write_text((tables / "train.csv").read_text())
    flags = ["--data", data, "--text", "review", "--label", "verdict", "--resume", "auto", "--sweep", "learning_rate=1e-3,1e-4"]

    def runs():
        result = finetune(arguments(model, tmp_path, "classify", *flags, settings=["max_steps=2"]))
        assert result.code == 0, result.err
        return result.out.count("finished before"), len(run_folders(tmp_path))

    assert runs() == (0, 2) and runs() == (2, 2)
    model = f"{model}/"                                                                   # the same folder
    assert runs() == (2, 2)
    model = tmp_path / "model"
    data.write_text(data.read_text().replace(",good,", ",fine,"))
    assert runs() == (0, 4)
    torch.manual_seed(1)
    AlbertForPretraining(AlbertConfig.from_dict(json.loads((model / "config.json").read_text()))).save_pretrained(model)
    assert runs() == (0, 6) and runs() == (2, 6)


def test_a_run_that_was_stopped_goes_on_with_its_own_data_alone(checkpoint, tables, tmp_path, finetune, monkeypatch):
    data = tmp_path / "data.csv"
    data.write_text((tables / "train.csv").read_text())
    command = arguments(checkpoint, tmp_path, "classify", "--data", data, "--text", "review", "--label", "verdict", "--resume", "auto",
                        "--cache-dir", "here")
    monkeypatch.chdir(tmp_path)
    save = checkpoints.save

    def stop(*args):
        save(*args)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(checkpoints, "save", stop)
    assert finetune(command).code == 128 + signal.SIGTERM
    monkeypatch.setattr(checkpoints, "save", save)
    run, = run_folders(tmp_path)
    assert json.loads((run / "config.json").read_text())["cache_dir"] == str(tmp_path / "here")
    data.write_text(data.read_text() + "an added row,good,1,x\n")
    assert finetune(command).code == 0 and len(run_folders(tmp_path)) == 2
    assert not (run / "metrics.json").exists()
    refused(finetune(["--resume", str(run), "--cpu", "--tqdm-off"]), "the data has changed", "without --resume")


@pytest.mark.parametrize("rate", ["1e6", "1e30"])
def test_a_model_that_diverges_in_its_last_update_is_not_handed_out(checkpoint, tables, tmp_path, finetune, rate):
    flags = own(tables, "--label", "verdict", "--resume", "auto", "--sweep", f"learning_rate=1e-4,{rate}")
    for _ in range(2):
        result = finetune(arguments(checkpoint, tmp_path, "classify", *flags, settings=[
            "max_steps=1", "warmup_steps=0", "clip_norm=1e30", "optimizer=adamw"]))
        assert result.code == 0 and "not finite at step 1" in result.err, result.err
        assert "best run" in result.out
    assert sum((run / "metrics.json").exists() for run in run_folders(tmp_path)) == 1


def test_a_setting_that_diverges_leaves_the_others_their_table(checkpoint, tables, tmp_path, finetune):
    flags = [*own(tables, "--label", "verdict"), "--sweep", "learning_rate=1e30,1e-3"]
    result = finetune(arguments(checkpoint, tmp_path, "classify", *flags, "--no-save", settings=["log_every=1"]))
    assert result.code == 0 and "error: learning_rate=1e30, seed 0: the loss is not finite" in result.err
    header, row = result.out.strip().splitlines()[-2:]
    assert header.startswith("setting") and row.split()[:2] == ["learning_rate=1e-3", "1"]
    flags[-1] = "learning_rate=1e30,1e31"
    result = finetune(arguments(checkpoint, tmp_path, "classify", *flags, "--no-save", settings=["log_every=1"]))
    assert result.code == 2 and result.err.strip().splitlines()[-1] == "error: none of the runs came to its end"
    flags[-1] = "batch_size=16,10000"
    result = finetune(arguments(checkpoint, tmp_path, "classify", *flags, "--no-save",
                                settings=["warmup_steps=5", "max_epochs=2"]))
    assert result.code == 0 and "error: batch_size=10000, seed 0: warmup_steps=5 is not below max_steps=" in result.err
    assert result.out.strip().splitlines()[-1].split()[:2] == ["batch_size=16", "1"]


def test_a_classifier_goes_on_under_the_names_of_its_labels(checkpoint, tables, tmp_path, finetune):
    assert finetune(arguments(checkpoint, tmp_path / "first", "classify", *own(tables, "--label", "verdict"))).code == 0
    run, = run_folders(tmp_path / "first")
    model = AlbertForSequenceClassification.from_pretrained(run)
    turned = AlbertForSequenceClassification.from_pretrained(run, id2label={0: "good", 1: "bad"})
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert torch.equal(turned.classifier.linear.weight, model.classifier.linear.weight.flip(0))
    other = AlbertForSequenceClassification.from_pretrained(run, id2label={0: "no", 1: "yes"})
    assert not torch.equal(other.classifier.linear.weight, model.classifier.linear.weight)


def test_a_classifier_of_another_task_gives_way(checkpoint, tables, benchmarks, tmp_path, finetune):
    assert finetune(arguments(checkpoint, tmp_path / "first", "classify", *own(tables, "--label", "verdict"))).code == 0
    run, = run_folders(tmp_path / "first")
    result = finetune(arguments(run, tmp_path / "second", "race", "--data", benchmarks / "race", "--no-save"))
    assert result.code == 0, result.err


@pytest.mark.parametrize("what, frozen", [("embeddings", "embeddings"), ("2", "albert_layers.0.")])
def test_frozen_weights_stay(checkpoint, tables, tmp_path, finetune, what, frozen):
    result = finetune(arguments(checkpoint, tmp_path, "classify", *own(tables, "--label", "verdict"), "--freeze", what))
    assert result.code == 0, result.err
    run, *_ = read_run(tmp_path)
    before, after = AlbertForPretraining.from_pretrained(checkpoint), AlbertForSequenceClassification.from_pretrained(run)
    pairs = dict(after.albert.named_parameters())
    same = {name for name, weight in before.albert.named_parameters() if torch.equal(weight, pairs[name])}
    fixed = {name for name in pairs if name.startswith("embeddings.")}
    if what == "2":
        fixed |= {name for name in pairs if name.startswith(("encoder.attention.0.", "encoder.attention.1.",
                                                             "encoder.feed_forward.0.", "encoder.feed_forward.1."))}
    assert same == fixed


def test_early_stopping(checkpoint, tables, tmp_path, finetune):
    settings = ["learning_rate=0", "patience=2", "eval_every=2", "max_steps=20"]
    result = finetune(arguments(checkpoint, tmp_path, "classify", *own(tables, "--label", "verdict"), settings=settings))
    assert result.code == 0, result.err
    _, saved, _ = read_run(tmp_path)
    assert (saved["best_step"], saved["steps"]) == (2, 6)


@pytest.mark.parametrize("settings", [["class_weights=balanced"], ["label_smoothing=0.1"], ["bucket_batches=1"],
                                      ["optimizer=muon", "muon_learning_rate=0.01"]])
def test_settings_train(checkpoint, tables, tmp_path, finetune, settings):
    result = finetune(arguments(checkpoint, tmp_path, "classify", *own(tables, "--label", "verdict"), "--no-save",
                                settings=settings))
    assert result.code == 0, result.err
    assert not run_folders(tmp_path)


def test_multi_label_lists(checkpoint, tmp_path, finetune):
    rng = random.Random(3)
    path = tmp_path / "train.jsonl"
    rows = [{"text": sentence(rng, GOOD), "label": rng.sample(["x", "y", "z"], rng.randint(0, 3))} for _ in range(30)]
    rows[0]["label"] = ["x", "y"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = finetune(arguments(checkpoint, tmp_path, "classify", "--data", path, settings=["class_weights=balanced"]))
    assert result.code == 0, result.err
    _, saved, predictions = read_run(tmp_path)
    assert {"f1", "accuracy"} <= set(saved["dev"]) and len(predictions) == 3
    assert all(set(json.loads(row["prediction"])) <= {"x", "y", "z"} for row in predictions)


def test_class_weights_are_those_of_scikit_learn():
    labels = np.random.default_rng(0).integers(0, 3, 50) ** 2 // 2                            # 0, 2 and none of class 1
    expected = compute_class_weight("balanced", classes=np.array([0, 2]), y=labels) * 2 / 3   # of three classes
    weights = class_weights(SimpleNamespace(class_weights="balanced"), np.bincount(labels, minlength=3))
    np.testing.assert_allclose(weights[[0, 2]], expected, rtol=1e-6)
    assert class_weights(SimpleNamespace(class_weights="none"), [3, 0, 5]).tolist() == [1, 1, 1]


def test_smoothing_and_class_weights_together_favour_no_class():
    """At its least loss a row's own class is the likeliest, however rare another one is."""
    hps = SimpleNamespace(class_weights="balanced", label_smoothing=0.1)
    weights = class_weights(hps, [500, 499, 1])
    logits, labels = torch.zeros(300, 3, requires_grad=True), torch.arange(300) % 2
    descent = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        descent.zero_grad()
        weighted_cross_entropy(logits, labels, weights, hps).backward()
        descent.step()
    assert torch.equal(logits.argmax(-1), labels)
    plain = torch.nn.functional.cross_entropy(logits, labels, weights, reduction="sum")
    hps.label_smoothing = 0.0
    torch.testing.assert_close(weighted_cross_entropy(logits, labels, weights, hps), plain)


@pytest.mark.parametrize("text, words", [
    ("review,verdict\ngood,1\nbad,0\n", ["no column 'label'", "review, verdict", "--label"]),
    ("review,label\ngood,1\n ,0\n", ["line 3", "no text"]),
    ("review,label\ngood,1\nbad,1\nrain,1\n", ["one class only"]),
    ("review,label\ngood,1\nbad,\n", ["line 3", "no label"]),
    ("review,label\ngood,1\nbad,0,x\n", ["line 3", "3 columns"]),
    ("review,label\n", ["no rows"]),
    ("review,label\ngood,1\nbad, \n", ["line 3", "no label"]),
    ("review,label,label\ngood,1,3\nbad,0,4\n", ["2 columns", "'label'"]),
    ('review,label\ngood,"[""1"", """"]"\n', ["line 2", "no label"]),
])
def test_bad_tables(checkpoint, tmp_path, finetune, text, words):
    (tmp_path / "bad.csv").write_text(text)
    result = finetune(arguments(checkpoint, tmp_path, "classify", "--data", tmp_path / "bad.csv", "--text", "review"))
    refused(result, "bad.csv", *words)
    assert not run_folders(tmp_path)


def test_a_label_unseen_in_training(checkpoint, tables, tmp_path, finetune):
    (tmp_path / "dev.csv").write_text("review,verdict\nsun,good\nrain,mixed\n")
    refused(finetune(arguments(checkpoint, tmp_path, "classify", "--data", tables / "train.csv", "--dev",
                               tmp_path / "dev.csv", "--text", "review", "--label", "verdict")),
            "dev.csv: line 3", "mixed", "good")


def test_labels_in_lists_and_alone(checkpoint, tmp_path, finetune):
    (tmp_path / "train.jsonl").write_text('{"text": "sun", "label": ["1", "2"]}\n{"text": "rain", "label": []}\n')
    for label in ('1', '"12"'):
        (tmp_path / "dev.jsonl").write_text(f'{{"text": "sun", "label": {label}}}\n')
        refused(finetune(arguments(checkpoint, tmp_path, "classify", "--data", tmp_path / "train.jsonl", "--dev",
                                   tmp_path / "dev.jsonl")), "dev.jsonl: line 1", "list of labels")


def test_nothing_but_the_head_by_muon(checkpoint, benchmarks, tmp_path, finetune):
    result = finetune(arguments(checkpoint, tmp_path, "ner", "--data", benchmarks, "--freeze", "4", "--no-save",
                                settings=["optimizer=muon"]))
    assert result.code == 0, result.err


def test_a_ragged_conll_row(checkpoint, tmp_path, finetune):
    (tmp_path / "train.txt").write_text("sun O\njoy B-LOC\n\nrain\n")
    refused(finetune(arguments(checkpoint, tmp_path, "ner", "--data", tmp_path)), "train.txt: line 4", "1 columns")


def test_misplaced_answers_are_counted(checkpoint, benchmarks, tmp_path, finetune):
    data = json.loads((benchmarks / "train-v1.1.json").read_text())
    for answer in data["data"][0]["paragraphs"][0]["qas"][0]["answers"]:
        answer["answer_start"] += 3
    (tmp_path / "train-v1.1.json").write_text(json.dumps(data))
    shutil.copy(benchmarks / "dev-v1.1.json", tmp_path)
    result = finetune(arguments(checkpoint, tmp_path, "squad", "--data", tmp_path, settings=["max_steps=2"]))
    assert result.code == 0, result.err
    assert "2 answers are not in their context" in result.out and "with them 1 questions" in result.out
    shutil.copy(tmp_path / "train-v1.1.json", tmp_path / "dev-v1.1.json")
    held = read_task("squad", tmp_path).dev
    wanted = [[answer["text"] for answer in question["answers"]] for article in data["data"]
              for paragraph in article["paragraphs"] for question in paragraph["qas"]]
    assert [sorted(text for _, text in labels) for labels in held.labels] == [sorted(texts) for texts in wanted]
    assert all(start == -1 for start, _ in held.labels[0])


def test_a_question_longer_than_the_window(checkpoint, benchmarks, tmp_path, finetune):
    args = arguments(checkpoint, tmp_path, "squad", "--data", benchmarks, settings=["seq_len=8"])
    refused(finetune(args), "question q0", "--set seq_len=")


def test_other_bad_input(checkpoint, tables, tmp_path, finetune):
    def call(task="classify", source=checkpoint, flags=own(tables, "--label", "verdict")):
        return finetune(arguments(source, tmp_path, task, *flags))
    refused(call(task="glue"), "--task glue", "sst2")
    refused(call(source=tmp_path / "nowhere"), "nowhere")
    refused(call(flags=["--data", tmp_path / "none.csv"]), "none.csv", "no such file")
    refused(call(flags=["--data", "~no.such.user/none.csv"]), "none.csv", "no such file")
    refused(call(task="pair"), "--text-pair")
    refused(call(flags=own(tables, "--label", "review")), "--text review, --label review")
    refused(call(flags=own(tables, "--label", "verdict", "--set", "max_position_embeddings=32")), "has 64")
    refused(call(flags=own(tables, "--label", "verdict", "--freeze", "9")), "--freeze 9", "4 layers")
    refused(call(task="regress"), "not a number", "train.csv: line 2")
    refused(call(task="sst2", flags=["--data", tables]), "no such file", "train.tsv")
    refused(call(task="sst2", flags=["--data", tables, "--dev", tables / "none.csv"]), "--dev", "sst2")
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    tokenizer = json.loads((broken / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] += [[f"new{number}", -9.0] for number in range(7)]
    (broken / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(call(source=broken), "broken", "tokens", "vocab_size")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_attention_fine_tunes_and_reloads(checkpoint, tables, tmp_path, finetune, kind):
    settings = [f"attention={kind}", "num_landmarks=4", "attention_window=4", "block_size=2", "blocks_per_row=2",
                "conv_kernel_size=0", "max_steps=3"]
    result = finetune(arguments(checkpoint, tmp_path, "classify", *own(tables, "--label", "verdict"), settings=settings))
    assert result.code == 0, result.err
    model = AlbertForSequenceClassification.from_pretrained(next(tmp_path.glob("finetune-*")))
    assert model.config.attention == kind and isinstance(model.albert.encoder.attention[0].attend, KINDS[kind])
    assert model(torch.ones(1, 20, dtype=torch.long)).isfinite().all()


def test_the_paper_s_values():
    assert (HPS["finetune-cola", "base"].learning_rate, HPS["finetune-squad2", "base"].batch_size,
            HPS["finetune-sst2", "xxlarge"].max_steps, HPS["finetune-rte", "large"].hidden_dropout_prob,
            HPS["finetune-classify", "base"].max_epochs) == (1e-5, 48, 20_935, 0.1, 3)
