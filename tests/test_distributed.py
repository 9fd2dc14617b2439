"""One, two and three processes train alike; every sample is read once an epoch; evaluation is shared out exactly."""
import json
import math
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import faults
import numpy as np
import pytest
import torch
from conftest import ROOT, arguments

from albert import AlbertConfig, AlbertForPretraining
from data.sources import open_source
from data.store import prepare
from hps import HPS
from trainer import command, machine
from trainer.distributed import World, agree
from trainer.errors import RunError
from trainer.loop import Trainer
from trainer.pretraining import Pretraining

def test_processes_on_different_devices_are_refused():
    """One that finds no GPU would wait for the others in another way of exchanging than theirs."""
    for kinds, refused in ((("cuda", "cuda", "cuda"), False), (("cuda", "cuda", "cpu"), True)):
        store = torch.distributed.HashStore()
        for rank, kind in enumerate(kinds[:2]):
            store.set(f"device-{rank}", kind)
        with pytest.raises(RunError, match="process 0 computes on cuda and process 2 on cpu") if refused else nullcontext():
            agree(store, 2, 3, kinds[2])


def test_text_is_tokenised_by_all_cores(monkeypatch):
    """torchrun leaves each process one thread, but not one core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert machine.workers() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert machine.workers() == 8


UNEVEN = ["micro_batch_size=3", "precision=fp32", "warmup_steps=2", "eval_every=6", "num_workers=0", "optimizer=adamw"]


def records(runs):
    run, = runs.iterdir()
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def same(ours, theirs, names=("loss", "mlm_loss", "mlm_accuracy", "sentence_loss", "gradient_norm"), within=1e-5):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        for name in ("step", "tokens", "kind"):
            assert one[name] == other[name]
        for name in names:
            assert one.get(name, 0.0) == pytest.approx(other.get(name, 0.0), abs=within), (one["step"], name)


def train(corpus, cache, folder, ranks, settings, flags=()):
    ended = faults.train(arguments(corpus, cache, folder / "runs", [*UNEVEN, *settings], flags), folder, ranks=ranks)
    for code, _, output in ended:
        assert code == 0, output
    return ended


def compare_counts(corpus, cache, tmp_path, settings):
    for ranks in (1, 2, 3):
        (tmp_path / str(ranks)).mkdir()
        train(corpus, cache, tmp_path / str(ranks), ranks, settings)
    one, two, three = (records(tmp_path / str(ranks) / "runs") for ranks in (1, 2, 3))
    same(two, one)
    same(three, one)
    return one


def test_three_processes_train_as_one(corpus, cache, tmp_path):
    """Unequal shares: three micro-batches an update, of 3, 3 and 2 samples; an evaluation of six."""
    one = compare_counts(corpus, cache, tmp_path, ["hidden_dropout_prob=0.1", "attention_probs_dropout_prob=0.1"])
    assert len(one) == 14


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_fifty_steps(corpus, cache, tmp_path, dropout):
    settings = ["max_steps=50", f"hidden_dropout_prob={dropout}", f"attention_probs_dropout_prob={dropout}",
                f"classifier_dropout_prob={dropout}", "eval_every=25"]
    assert len(compare_counts(corpus, cache, tmp_path, settings)) == 52


def test_saved_on_two_resumed_on_others(corpus, cache, tmp_path):
    """Resumed on one and on three processes a run of two goes on with the same samples, to the same losses."""
    settings = ["hidden_dropout_prob=0.1", "log_every=2"]
    train(corpus, cache, tmp_path, 2, settings)
    whole = records(tmp_path / "runs")
    run, = (tmp_path / "runs").iterdir()
    for ranks in (1, 3):
        for path in (*(run / "checkpoints").glob("step-0000012*"), run / "metrics.json"):
            faults.remove(path)
        ended = faults.train(["--resume", str(run), "--cpu", "--tqdm-off"], tmp_path, ranks=ranks)
        assert [code for code, _, _ in ended] == [0] * ranks, ended
        same(records(tmp_path / "runs"), whole)


def test_one_process_speaks(corpus, tmp_path):
    """Also while the text is prepared."""
    (_, _, first), (_, _, second) = train(corpus, tmp_path / "new", tmp_path, 2, [])
    assert "12 documents" in first and "held-out MLM loss" in first and not second.strip()


def test_a_mistake_is_told_once(corpus, cache, tmp_path):
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           str(ROOT / "main-pretrain.py"), *arguments(corpus, cache, tmp_path, ["batch_size=100000"])],
                          cwd=ROOT, text=True, capture_output=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    line, = (line for line in done.stderr.splitlines() if "error: " in line and "torch" not in line)
    assert line.startswith("error: ") and "fewer than one batch" in line
    assert re.search(r"exitcode +: 2 ", done.stderr), done.stderr


def test_a_fault_of_one_process_is_told(monkeypatch, capsys):
    def main():
        raise RunError("no such disk")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(command.time, "sleep", lambda seconds: None)
    with pytest.raises(SystemExit) as leaving:
        command.leave_with(main)
    assert leaving.value.code == 2 and capsys.readouterr().err == "error: process 1: no such disk\n"


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory"),
                                   RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")])
def test_memory_that_runs_out_is_told_in_one_line(capsys, fault):
    def main():
        raise fault
    with pytest.raises(SystemExit) as leaving:
        command.leave_with(main)
    said = capsys.readouterr().err
    assert leaving.value.code == 2 and said.count("\n") == 1 and "micro_batch_size" in said


def test_commands_are_said_as_they_work_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for executable, script, said in ((tmp_path / ".venv" / "python", "main-pretrain.py", ".venv/python main-inference.py"),
                                     ("/usr/bin/python3", "my copy/main-pretrain.py", "python 'my copy/main-inference.py'"),
                                     ("/usr/bin/python3", "/else where/main-pretrain.py", "python '/else where/main-inference.py'")):
        monkeypatch.setattr(sys, "executable", str(executable))
        monkeypatch.setattr(sys, "argv", [script])
        assert command.how_to_call("main-inference.py") == said
        assert command.how_to_call() == said.replace("inference", "pretrain")


def test_what_fails_in_an_exchange_is_told_as_what_it_is():
    """NCCL's reason stands in its last line; what comes up in between has not to do with the other processes."""
    world = World(1, 8, torch.device("cpu"))
    nccl = torch.distributed.DistBackendError("NCCL error in: NCCLUtils.cpp:94, invalid usage\nLast error:\nDuplicate GPU "
                                              "detected : rank 1 and rank 0")
    for fault, raised, words in ((nccl, RunError, "Last error: Duplicate GPU detected : rank 1 and rank 0"),
                                 (RuntimeError("Connection closed by peer. More"), RunError, "lost another one"),
                                 (torch.AcceleratorError("device-side assert"), torch.AcceleratorError, "assert"),
                                 (RuntimeError("DataLoader worker (pid 7) is killed"), RuntimeError, "^DataLoader worker")):
        with pytest.raises(raised, match=words) as told, world._others_there():
            raise fault
        assert "\n" not in str(told.value)


def test_fewer_micro_batches_than_processes_are_said(corpus, cache, settings, capsys):
    hps = SimpleNamespace(**vars(settings) | {"precision": "fp32"})
    model = AlbertForPretraining(AlbertConfig(vocab_size=200, hidden_size=32, num_attention_heads=2, intermediate_size=64))
    task, = tasks(corpus, cache, hps, 1)

    class Alone(World):
        def gather(self, items):
            return list(items)

        def spread(self, tensors):
            pass

    for size, said in ((3, False), (4, True)):
        Trainer(task, model, None, hps, Alone(0, size, torch.device("cpu")))
        assert ("3 micro-batches of 3, for 4 processes" in capsys.readouterr().out) == said


@pytest.fixture(scope="module")
def settings():
    hps = SimpleNamespace(**vars(HPS["pretrain", "tiny"]))
    vars(hps).update(seq_len=32, batch_size=7, micro_batch_size=3, vocab_size=200, heldout_fraction=0.2, num_workers=0,
                     eval_sequences=29)
    return hps


def tasks(corpus, cache, hps, size):
    store, tokenizer = prepare(open_source([str(corpus)]), cache, tokenizer=None, kind="unigram", vocab_size=200,
                               num_workers=0, progress=False, announce=False)
    return [Pretraining(store, tokenizer, hps, World(rank, size, torch.device("cpu"))) for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_sample_once_an_epoch(corpus, cache, settings, monkeypatch, size):
    """Over the processes of an update and the updates of an epoch; its last batch takes the rest from the next epoch."""
    members, read = tasks(corpus, cache, settings, size), []
    for task in members:
        batch = task.train.batch
        monkeypatch.setattr(task.train, "batch", lambda epoch, samples, batch=batch: (
            read.extend((epoch, int(sample)) for sample in samples), batch(epoch, samples))[1])
    count = len(members[0].train.plan(0).label)
    streams = [task.updates(task.position()) for task in members]
    for _ in range(math.ceil(count / settings.batch_size)):
        numbers = sorted(number for stream in streams for number, _ in next(stream)[1])
        assert numbers == list(range(len(numbers)))
    first = sorted(sample for epoch, sample in read if epoch == 0)
    assert first == list(range(count)) and len(read) == len(set(read))


def test_more_processes_than_micro_batches_of_an_evaluation(corpus, cache, settings):
    settings = SimpleNamespace(**vars(settings) | {"eval_sequences": 1})
    alone, = tasks(corpus, cache, settings, 1)
    for task in tasks(corpus, cache, settings, 3):
        assert task.unigram_loss == alone.unigram_loss and len(task.evaluation()) == (task.world.rank == 0)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_evaluation_is_shared_out(corpus, cache, settings, size):
    alone, = tasks(corpus, cache, settings, 1)
    rows = [[tuple(row) for batch in task.evaluation() for row in batch["input_ids"].tolist()]
            for task in tasks(corpus, cache, settings, size)]
    strip = re.compile(r"(, 0)*\)$")

    def known(parts):
        return sorted(strip.sub("", str(row)) for part in parts for row in part)

    assert known(rows) == known([[tuple(row) for batch in alone.evaluation() for row in batch["input_ids"].tolist()]])
    assert len(known(rows)) == 29


def test_every_seed_and_share_of_masks_is_scored_on_the_same(corpus, cache, settings):
    (task,), (other,) = (tasks(corpus, cache, hps, 1) for hps in (
        settings, SimpleNamespace(**vars(settings) | dict(seed=1, mask_prob=0.4))))
    for ours, theirs in zip(task.evaluation(), other.evaluation(), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_masks_are_drawn_as_the_run_is_set(corpus, cache, settings):
    task, = tasks(corpus, cache, SimpleNamespace(**vars(settings) | dict(mask_prob=0.4, max_ngram=1)), 1)
    batch = task.train.batch(0, np.arange(len(task.train.plan(0).label)))
    assert len(batch["mlm_labels"]) / (batch["input_ids"] >= 4).sum() == pytest.approx(0.4, abs=0.02)
    assert len(task.train.ngram_cdf) == 0


def test_the_unigram_baseline_is_that_of_the_training_text(corpus, cache, settings):
    task, = tasks(corpus, cache, settings, 1)
    store = task.train.store
    bounds = store.sentence_offsets[store.document_offsets]
    text = np.concatenate([store.tokens[bounds[number]:bounds[number + 1]] for number in task.train.documents])
    counts = np.bincount(text, minlength=len(task.train.starts_word)) + 1
    labels = np.concatenate([batch["mlm_labels"] for batch in task.evaluation()])
    assert task.unigram_loss == pytest.approx(-np.log(counts / counts.sum())[labels].mean())


def test_fine_tuning_on_two_processes(corpus, cache, tmp_path):
    """To the same losses and scores as on one, also with an evaluation that does not divide."""
    (tmp_path / "pretrained").mkdir()
    train(corpus, cache, tmp_path / "pretrained", 1, ["max_steps=3"])
    checkpoint, = (tmp_path / "pretrained" / "runs").iterdir()
    lines = [line for file in sorted(corpus.iterdir()) for line in file.read_text().splitlines()][:61]
    table = tmp_path / "table.csv"
    table.write_text("text,label\n" + "".join(f"{line},{'ab'[len(line) % 2]}\n" for line in lines))
    sets = [part for setting in ("batch_size=7", "micro_batch_size=2", "max_epochs=2", "precision=fp32", "log_every=1",
                                 "learning_rate=1e-3", "hidden_dropout_prob=0.1") for part in ("--set", setting)]
    for ranks in (1, 2):
        ended = faults.train(["--task", "classify", "--init-from", str(checkpoint), "--data", str(table), "--cpu",
                              "--tqdm-off", "--cache-dir", str(cache), "--runs-dir", str(tmp_path / str(ranks)), *sets],
                             tmp_path, ranks=ranks, script="main-finetune.py")
        for code, _, output in ended:
            assert code == 0, output
        assert ranks == 1 or not ended[1][2].strip()
    same(records(tmp_path / "2"), records(tmp_path / "1"), ("loss", "label_loss", "accuracy", "f1", "matthews"))
    one, two = (next((tmp_path / name).glob("*/predictions.csv")).read_text().splitlines() for name in "12")
    assert len(one) == len(two) and [line.split(",")[0] for line in one] == [line.split(",")[0] for line in two]
