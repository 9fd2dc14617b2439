"""main-pretrain.py from text to checkpoint, and every way it may be cut off."""
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, arguments, refused, script
from safetensors.torch import load_file

from albert import AlbertForPretraining
from data.examples import NO_LABEL
from data.tokenizer import load_tokenizer
from trainer import checkpoints
from trainer.pretraining import Pretraining, split


def only_run(folder):
    run, = folder.iterdir()
    return run


def losses(run):
    """What a resumed run must repeat: everything in the log but timings."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    timings = ("tokens_per_second", "data_wait_share", "mfu", "peak_memory")
    return [{k: v for k, v in r.items() if k not in timings} for r in records]


@pytest.fixture(scope="module")
def finished(corpus, cache, tmp_path_factory):
    """An uninterrupted run with dropout."""
    runs = tmp_path_factory.mktemp("finished")
    process = script("main-pretrain.py", arguments(corpus, cache, runs, ["hidden_dropout_prob=0.1"]))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return only_run(runs), out


def test_a_run_leaves_what_it_says(finished):
    run, out = finished
    for name in ("config.json", "environment.json", "tokenizer.json", "log.jsonl", "curves.png"):
        assert (run / name).stat().st_size > 0
    assert list(run.glob("events.out.tfevents.*"))
    assert (run / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(run.rglob("*.tmp"))
    checkpoint = run / "checkpoints" / "step-0000012"
    assert {path.name for path in checkpoint.iterdir()} == {
        "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
        "training_state.json", "training_state.safetensors", "SHA256SUMS"}
    for words in ("held-out MLM loss", "sentence-order accuracy", str(run), "curves.png", "python main-pretrain.py"):
        assert words in out
    records = losses(run)
    assert [r["step"] for r in records if r["kind"] == "train"] == list(range(1, 13))
    assert [r["step"] for r in records if r["kind"] == "eval"] == [6, 12]
    assert {"loss", "tokens", "mlm_loss", "mlm_accuracy", "sentence_loss", "sentence_accuracy",
            "learning_rate"} <= set(records[0])
    config = json.loads((run / "config.json").read_text())
    assert (config["task"], config["model"], config["seq_len"], config["optimizer"]) == ("pretrain", "tiny", 32, "muon")


def test_only_the_newest_and_the_best_are_kept(finished):
    run, _ = finished
    steps = [int(path.name[5:]) for path in checkpoints.listed(run / "checkpoints")]
    best = checkpoints.newest(run / "checkpoints")[1]["best"]["step"]
    assert steps == sorted({8, 12, best})


def test_the_best_step_has_the_least_held_out_loss(finished):
    run, _ = finished
    best = min((record for record in losses(run) if record["kind"] == "eval"), key=lambda record: record["loss"])
    assert checkpoints.newest(run / "checkpoints")[1]["best"] == {
        "step": best["step"], "score": -best["loss"], "loss": best["loss"]}


def test_the_checkpoint_reloads_to_the_logged_score(finished, corpus, cache):
    run, _ = finished
    model = AlbertForPretraining.from_pretrained(run)
    state = checkpoints.newest(run / "checkpoints")[1]
    assert state["step"] == 12
    ids = torch.randint(5, 100, (2, 16))
    again = AlbertForPretraining.from_pretrained(run / "checkpoints" / "step-0000012")
    torch.testing.assert_close(model.eval()(ids).mlm_logits, again.eval()(ids).mlm_logits, rtol=0, atol=0)


@pytest.mark.parametrize("after", [5, 9])
def test_killed_and_resumed_equals_uninterrupted(finished, corpus, cache, tmp_path, after):
    process = script("main-pretrain.py", arguments(corpus, cache, tmp_path, ["hidden_dropout_prob=0.1"]))
    for line in process.stdout:
        if line.startswith(f"step {after}/"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close(), process.stderr.close()
    run = only_run(tmp_path)
    process = script("main-pretrain.py", ["--resume", str(run), "--cache-dir", str(cache), "--cpu", "--tqdm-off"])
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert losses(run) == losses(finished[0])
    ours, theirs = (load_file(folder / "checkpoints" / "step-0000012" / "model.safetensors")
                    for folder in (run, finished[0]))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves(finished, corpus, cache, tmp_path, number):
    process = script("main-pretrain.py", arguments(corpus, cache, tmp_path, ["hidden_dropout_prob=0.1"]))
    for line in process.stdout:
        if line.startswith("step 2/"):
            process.send_signal(number)
            break
    out, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert "--resume" in out and "Traceback" not in err
    run = only_run(tmp_path)
    path, state = checkpoints.newest(run / "checkpoints")
    assert 2 <= state["step"] < 12
    process = script("main-pretrain.py", ["--resume", str(run), "--cache-dir", str(cache), "--cpu", "--tqdm-off"])
    process.communicate(timeout=300)
    assert losses(run) == losses(finished[0])


def hears_hangups():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)                # these tests may run under nohup


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_ended_the_reader_too_saves(corpus, cache, tmp_path, number):
    """Ctrl-C ends the ``tee`` of ``main-pretrain.py | tee log`` as well; what it does not take goes to stderr."""
    settings = ["num_workers=1", "log_every=1", "max_steps=100000"]
    process = script("main-pretrain.py", arguments(corpus, cache, tmp_path, settings), preexec_fn=hears_hangups)
    while "step 3/" not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.close()
    process.send_signal(number)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 128 + number and "--resume" in err and "error" not in err
    assert checkpoints.newest(only_run(tmp_path) / "checkpoints")[1]["step"] >= 3


def test_a_terminal_that_hangs_up_saves(corpus, cache, tmp_path):
    ours, theirs = os.openpty()
    process = subprocess.Popen([sys.executable, ROOT / "main-pretrain.py", *arguments(corpus, cache, tmp_path, ["max_steps=100000"])],
                               cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=hears_hangups)
    os.close(theirs)
    seen = b""
    while b"step 3/" not in seen:
        seen += os.read(ours, 1000)
    os.close(ours)
    process.send_signal(signal.SIGHUP)                          # the kernel's to the session that a shell leads
    assert process.wait(timeout=100) == 128 + signal.SIGHUP
    assert checkpoints.newest(only_run(tmp_path) / "checkpoints")[1]["step"] >= 3


def test_updates_of_many_micro_batches_open_few_files(corpus, cache, tmp_path):
    """Systems allow 1,024 by default, and the recipe has 128 micro-batches an update."""
    settings = ["batch_size=100", "micro_batch_size=1", "num_workers=2", "max_steps=3", "warmup_steps=0"]
    process = script("main-pretrain.py", arguments(corpus, cache, tmp_path, settings, ["--no-save"]),
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)))
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err


def test_workers_end_with_a_killed_trainer_at_once(corpus, cache, tmp_path):
    """Else its connections would stay open, and the others of several processes wait for it."""
    process = script("main-pretrain.py", arguments(corpus, cache, tmp_path, ["num_workers=2", "max_steps=100000"]))
    while "step 3/" not in process.stdout.readline():
        assert process.poll() is None
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 3                                      # left to themselves they look every five seconds
    while (alive := [worker for worker in workers if _runs(worker)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2 and not alive


def _runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_change_nothing(finished, corpus, cache, tmp_path, pretrain):
    assert pretrain(arguments(corpus, cache, tmp_path, ["hidden_dropout_prob=0.1", "num_workers=2"])).code == 0
    ours, theirs = losses(only_run(tmp_path)), losses(finished[0])
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):                     # to rounding: threads sum in another order
        assert one.pop("kind") == other.pop("kind")
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


def test_two_processes_train_as_one_does(corpus, cache, tmp_path, pretrain):
    """Also where one of them has no micro-batch, over an evaluation, a save, and a resumption by one process."""
    settings = ["hidden_dropout_prob=0.1", "precision=fp32", "micro_batch_size=8", "log_every=2"]
    assert pretrain(arguments(corpus, cache, tmp_path / "one", settings)).code == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                str(ROOT / "main-pretrain.py")]
    done = subprocess.run([*torchrun, *arguments(corpus, cache, tmp_path / "two", settings)], cwd=ROOT, text=True,
                          capture_output=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    one, two = only_run(tmp_path / "one"), only_run(tmp_path / "two")

    def compare():
        assert len(losses(one)) == len(losses(two))
        for ours, theirs in zip(losses(one), losses(two)):
            for name in ("step", "tokens", "mlm_loss", "sentence_loss"):
                assert ours[name] == pytest.approx(theirs[name], abs=1e-5)

    compare()
    shutil.rmtree(two / "checkpoints" / "step-0000012")
    assert pretrain(["--resume", str(two), "--tqdm-off"]).code == 0
    compare()


def test_no_save_writes_nothing(corpus, cache, tmp_path, pretrain):
    result = pretrain(arguments(corpus, cache, tmp_path / "runs", ["max_steps=3"], ["--no-save"]))
    assert result.code == 0 and "held-out MLM loss" in result.out and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("settings", [
    ["attention=nystrom", "num_landmarks=8"], ["attention=local", "attention_window=8"],
    ["attention=mra", "block_size=4", "blocks_per_row=2"], ["attention=linformer"], ["attention=linear"],
    ["norm_position=post"], ["optimizer=lamb"], ["optimizer=adamw"],
    ["sentence_objective=none"], ["sentence_objective=nsp"], ["share=none"], ["short_seq_prob=1.0"],
])
def test_every_recipe_trains(corpus, cache, tmp_path, pretrain, settings):
    result = pretrain(arguments(corpus, cache, tmp_path, ["max_steps=3", *settings], ["--no-save"]))
    assert result.code == 0, result.err


def test_redrawn_features_are_the_same_after_resuming(corpus, cache, tmp_path, pretrain):
    settings = ["attention=performer", "num_features=16"]
    assert pretrain(arguments(corpus, cache, tmp_path / "whole", settings)).code == 0
    shutil.copytree(only_run(tmp_path / "whole"), tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-0000012")
    assert pretrain(["--resume", str(tmp_path / "cut"), "--cache-dir", str(cache), "--cpu", "--tqdm-off"]).code == 0
    ours, theirs = (load_file(run / "checkpoints" / "step-0000012" / "model.safetensors")
                    for run in (tmp_path / "cut", only_run(tmp_path / "whole")))
    assert any("features" in name for name in ours) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert losses(tmp_path / "cut") == losses(only_run(tmp_path / "whole"))


def test_bert_pretrains_by_its_own_recipe(corpus, cache, tmp_path, pretrain):
    args = arguments(corpus, cache, tmp_path, ["embedding_size=32", "max_steps=3"])
    args[1] = "bert-base"
    result = pretrain(args)
    assert result.code == 0 and "sentence-prediction accuracy" in result.out
    run = only_run(tmp_path)
    config = json.loads((run / "config.json").read_text())
    assert (config["sentence_objective"], config["share"], config["optimizer"]) == ("nsp", "none", "adamw")
    assert load_tokenizer(run).to_str().count("WordPiece") > 0
    bert = pytest.importorskip("transformers").BertForPreTraining
    _, report = bert.from_pretrained(checkpoints.newest(run / "checkpoints")[0], output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]


def test_one_document_is_held_out_by_its_last_part(corpus, cache, tmp_path, pretrain):
    text = tmp_path / "one.txt"
    text.write_text("".join(path.read_text() for path in sorted(corpus.iterdir())))
    result = pretrain(arguments(text, cache, tmp_path, ["max_steps=3"], ["--no-save"]))
    assert result.code == 0 and "held-out MLM loss" in result.out


def test_the_last_part_of_one_document_is_its_held_out_share():
    store = SimpleNamespace(tokens=None, sentence_offsets=None, num_documents=1, num_sentences=100)
    view, training, heldout = split(store, 0.1)
    assert view.document_offsets.tolist() == [0, 90, 100] and (training.tolist(), heldout.tolist()) == ([0], [1])


def test_neither_padding_nor_sequences_of_one_segment_are_counted():
    batch = {"mlm_labels": torch.ones(5), "sentence_labels": torch.tensor([0, NO_LABEL, 1]),
             "attention_mask": torch.arange(4) < torch.tensor([[4], [2], [3]])}
    assert Pretraining.counts(None, batch) == {"mlm": 5, "sentence": 2, "tokens": 9}


@pytest.mark.parametrize("settings, words", [
    (["learning_rat=1"], ["learning_rate"]),
    (["warmup_steps=12"], ["warmup_steps=12", "max_steps=12"]),
    (["batch_size=100000"], ["training sequences", "batch_size"]),
    (["optimizer=sgd"], ["optimizer=sgd", "lamb, adamw, muon"]),
    (["batch_size=0"], ["batch_size=0", "at least 1"]),
    (["log_every=0"], ["log_every=0", "at least 1"]),
    (["mask_prob=0"], ["mask_prob=0", "above 0"]),
    (["max_ngram=-1"], ["max_ngram=-1"]),
    (["learning_rate=-1"], ["learning_rate=-1"]),
    (["num_workers=-1"], ["num_workers=-1"]),
    (["precision=int8"], ["precision=int8"]),
    (["type_vocab_size=1"], ["type_vocab_size=1", "two segments"]),
    (["max_position_embeddings=20"], ["max_position_embeddings=20", "seq_len"]),
    (["attention=magic"], ["attention", "softmax"]),
    (["hidden_size=33"], ["hidden_size=33"]),
    (["heldout_fraction=2"], ["heldout_fraction"]),
])
def test_bad_settings(corpus, cache, tmp_path, pretrain, settings, words):
    refused(pretrain(arguments(corpus, cache, tmp_path / "runs", settings)), *words)
    assert not (tmp_path / "runs").exists()


def test_unknown_model(corpus, cache, tmp_path, pretrain):
    args = arguments(corpus, cache, tmp_path / "runs")
    args[1] = "huge"
    refused(pretrain(args), "huge", "tiny")


def test_missing_data(cache, tmp_path, pretrain):
    refused(pretrain(arguments(tmp_path / "nowhere", cache, tmp_path / "runs")), "nowhere")
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_is_not_finite_stops_the_run(corpus, cache, tmp_path, pretrain):
    result = pretrain(arguments(corpus, cache, tmp_path, ["learning_rate=1e30", "optimizer=adamw", "clip_norm=1e30"]))
    refused(result, "not finite at step", "learning rate", "checkpoint")


def test_a_model_that_has_diverged_is_not_scored(corpus, cache, tmp_path, pretrain):
    result = pretrain(arguments(corpus, cache, tmp_path, ["learning_rate=1e30", "optimizer=adamw", "clip_norm=1e30",
                                                          "eval_every=2", "log_every=5"]))
    refused(result, "not finite at step 2")
    log, = tmp_path.glob("*/log.jsonl")
    assert log.read_text() == "" and ": held out" not in result.out


def test_resume_refuses(finished, corpus, cache, tmp_path, pretrain):
    run = finished[0]
    common = ["--cache-dir", str(cache), "--cpu", "--tqdm-off"]
    refused(pretrain(["--resume", str(tmp_path / "none"), *common]), "no run there")
    refused(pretrain(["--resume", str(run), "--set", "batch_size=16", *common]), "batch_size=8", "16")
    refused(pretrain(["--resume", str(run), "--model", "base", *common]), "model=tiny", "base")
    refused(pretrain(["--resume", str(run / "checkpoints" / "step-0000012"), *common]), "not a run's settings")
    empty = tmp_path / "empty"
    shutil.copytree(run, empty, ignore=shutil.ignore_patterns("checkpoints"))
    refused(pretrain(["--resume", str(empty), *common]), "no complete checkpoint")


def test_flags_at_their_own_values_are_no_other_config(finished, corpus, cache, tmp_path, pretrain):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    result = pretrain(["--resume", str(run), "--model", "tiny", "--set", "batch_size=8", "--cache-dir", str(cache),
                       "--cpu", "--tqdm-off"])
    assert result.code == 0 and "held-out MLM loss" in result.out


def test_a_resumed_run_may_log_otherwise(finished, cache, tmp_path, pretrain):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    shutil.rmtree(run / "checkpoints" / "step-0000012")
    result = pretrain(["--resume", str(run), "--set", "log_every=4", "--set", "num_workers=1", "--cache-dir", str(cache),
                       "--cpu", "--tqdm-off"])
    assert result.code == 0
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines() if '"train"' in line]
    assert steps == [*range(1, 9), 12]
    refused(pretrain(["--resume", str(run), "--set", "log_every=0", "--cpu"]), "log_every=0", "at least 1")


def test_a_runs_folder_that_cannot_be(corpus, cache, tmp_path, pretrain):
    (tmp_path / "file").write_text("")
    for runs in (tmp_path / "file", tmp_path / "file" / "runs"):
        refused(pretrain(arguments(corpus, tmp_path / "cache", runs)), "--runs-dir", "a file")
    assert not (tmp_path / "cache").exists()


def test_resuming_needs_no_folder_for_new_runs_and_no_record_of_the_machine(finished, corpus, cache, tmp_path, pretrain,
                                                                            monkeypatch):
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "environment.json").unlink()
    (tmp_path / "runs").write_text("")
    monkeypatch.chdir(tmp_path)
    result = pretrain(["--resume", str(tmp_path / "run"), "--cache-dir", str(cache), "--cpu", "--tqdm-off"])
    assert result.code == 0, result.err


@pytest.mark.parametrize("document, words", [
    ("old river market " * 3000, "no sequence has two sentences"),
    ("Old rivers. " * 3 + "old river market " * 500 + ". The end.", "an epoch reads")])
def test_what_a_text_will_not_do_is_said(document, words, cache, tmp_path, pretrain):
    (tmp_path / "data").mkdir()
    for number in range(12):
        (tmp_path / "data" / f"{number}.txt").write_text(document if number else document + "More.")
    result = pretrain(arguments(tmp_path / "data", cache, tmp_path, ["sentence_objective=sop", "batch_size=2"],
                                ["--dry-run", "--documents", "line"]))
    assert result.code == 0 and words in result.out, result.out + result.err


def test_resume_notices_that_the_text_has_changed(finished, corpus, cache, tmp_path, pretrain):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(corpus, data)
    shutil.copytree(finished[0], run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"data": [str(data)]}))
    (data / "00.txt").write_text("Quite another text stands here now. It is short.\n")
    refused(pretrain(["--resume", str(run), "--cache-dir", str(cache), "--cpu", "--tqdm-off"]), "changed")
    moved = tmp_path / "moved"                                                # the same text, elsewhere and touched
    shutil.copytree(corpus, moved, copy_function=shutil.copyfile)
    shutil.rmtree(data)
    refused(pretrain(["--resume", str(run), "--cache-dir", str(cache), "--cpu", "--tqdm-off"]), "--data names the place")
    result = pretrain(["--resume", str(run), "--data", str(moved), "--cache-dir", str(cache), "--cpu", "--tqdm-off"])
    assert result.code == 0 and "error" not in result.err
    shutil.rmtree(run / "checkpoints" / "step-0000012")                         # as if stopped once more: the place is known
    result = pretrain(["--resume", str(run), "--cache-dir", str(cache), "--cpu", "--tqdm-off"])
    assert result.code == 0, result.err


@pytest.mark.parametrize("name, damage", [
    ("model.safetensors", lambda data: data[:-100]),
    ("training_state.safetensors", lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:]),
    ("training_state.json", lambda data: data[:50]),
])
def test_a_damaged_checkpoint_is_passed_over(finished, cache, tmp_path, pretrain, name, damage):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    file = run / "checkpoints" / "step-0000012" / name
    file.write_bytes(damage(file.read_bytes()))
    result = pretrain(["--resume", str(run), "--cache-dir", str(cache), "--cpu", "--tqdm-off"])
    assert result.code == 0 and "damaged" in result.out and "step-0000012" in result.out
    assert losses(run) == losses(finished[0])


def test_checkpoints_are_in_the_order_of_their_numbers(tmp_path):
    for step in (9_999_000, 9_999_999, 10_000_000, 10_001_000):
        (tmp_path / f"step-{step:07d}").mkdir()
    checkpoints.prune(tmp_path, 2, None, 10_001_000)
    assert [path.name for path in checkpoints.listed(tmp_path)] == ["step-10000000", "step-10001000"]


@pytest.mark.parametrize("preprocess", ["fast", "native"])
def test_a_length_that_is_no_multiple_of_eight(corpus, cache, tmp_path, pretrain, preprocess):
    result = pretrain(arguments(corpus, cache, tmp_path, ["seq_len=130", "max_steps=3"],
                                ["--no-save", "--preprocess", preprocess]))
    assert result.code == 0, result.err


def test_weights_are_as_readable_as_the_other_files(finished):
    for path in checkpoints.listed(finished[0] / "checkpoints"):
        assert len({file.stat().st_mode for file in path.iterdir()}) == 1


def test_a_run_that_goes_on_says_so(corpus, cache, tmp_path, pretrain):
    assert pretrain(arguments(corpus, cache, tmp_path, ["max_steps=4"])).code == 0
    run = only_run(tmp_path)
    (run / "metrics.json").unlink()
    result = pretrain(["--resume", str(run), "--cache-dir", str(cache), "--cpu", "--tqdm-off"])
    assert "goes on from step 4 of 4" in result.out, result.err


def test_most_of_the_text_held_out(cache, tmp_path, pretrain):
    draw = random.Random(0)
    for name, number in (("a", 60), ("b", 60), ("c", 900)):
        text = " ".join("".join(draw.choices("abcdefgh", k=3)) + "." * (draw.random() < 0.2) for _ in range(40 * number))
        (tmp_path / f"{name}.txt").write_text(text + "\n")
    shares = []
    for order in ("abc", "cab", "bca"):
        folder = tmp_path / order
        folder.mkdir()
        for place, name in enumerate(order):
            shutil.copy(tmp_path / f"{name}.txt", folder / f"{place}.txt")
        result = pretrain(arguments(folder, cache, tmp_path / "runs", ["max_steps=3"], ["--no-save"]))
        assert result.code == 0, result.err
        shares.append("of the tokens are held out" in result.out)
    assert sorted(shares) == [False, False, True]


def test_checkpoints_after_the_one_that_is_resumed_from_give_way(tmp_path):
    """They are damaged, and would otherwise count as newer than all that follow."""
    for step in (4, 6, 8, 12):
        (tmp_path / f"step-{step:07d}").mkdir()
    (tmp_path / "step-0000012-my-copy").mkdir()
    checkpoints.prune(tmp_path, 1, 4, 6)
    assert [path.name for path in checkpoints.listed(tmp_path)] == ["step-0000004", "step-0000006"]
    checkpoints.prune(tmp_path, 0, 4, 6)
    assert [path.name for path in checkpoints.listed(tmp_path)] == ["step-0000004"]
    assert (tmp_path / "step-0000012-my-copy").exists()


def test_the_scores_of_a_run_without_patience_are_those_of_its_checkpoint(corpus, cache, tmp_path, pretrain):
    result = pretrain(arguments(corpus, cache, tmp_path, ["patience=2", "eval_every=1", "save_every=50", "learning_rate=0",
                                                          "muon_learning_rate=0"]))
    assert result.code == 0, result.err
    saved = json.loads((only_run(tmp_path) / "metrics.json").read_text())
    assert (saved["best"]["step"], saved["steps"]) == (1, 3) and "was that of step 1," in result.out
    evaluations = [json.loads(line) for line in (only_run(tmp_path) / "log.jsonl").read_text().splitlines()]
    last = next(record for record in evaluations if (record["kind"], record["step"]) == ("eval", 3))
    assert saved["dev"].items() <= last.items()
    assert checkpoints.newest(only_run(tmp_path) / "checkpoints")[1]["step"] == 3


def test_a_full_disk_leaves_the_old_checkpoint(corpus, cache, tmp_path, pretrain, monkeypatch):
    original = checkpoints.save_file

    def full(tensors, path):
        if "step-0000008" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        original(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", full)
    refused(pretrain(arguments(corpus, cache, tmp_path)), "step-0000008", "No space left")
    path, state = checkpoints.newest(only_run(tmp_path) / "checkpoints")
    assert state["step"] in (4, 6)
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_second_start_is_quick(finished, corpus, cache, tmp_path, pretrain):
    start = time.time()
    pretrain(arguments(corpus, cache, tmp_path, ["max_steps=3"], ["--no-save"]))
    assert time.time() - start < 20
