"""Training killed, starved and damaged at moments drawn by a seed, resumed each time: the weights come out the same."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys

import faults
import pytest
import torch
from conftest import ROOT, arguments, script
from safetensors.torch import load_file

from albert import ModelError, checkpoint_folder
from albert.checksums import check_sums, write_sums
from trainer import checkpoints
from trainer.errors import RunError
from trainer.run import Run

SETTINGS = ["hidden_dropout_prob=0.1", "precision=fp32", "save_every=2", "max_steps=8", "eval_every=4", "optimizer=adamw",
            "seq_len=16", "keep_checkpoints=3"]


def weights(runs):
    """The final weights of the only finished run of a folder."""
    finished, = [path.parent for path in runs.glob("*/metrics.json")]
    assert not list(finished.rglob("*.tmp"))
    return load_file(finished / "checkpoints" / "step-0000008" / "model.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(corpus, cache, tmp_path_factory):
    """{processes: (calls of functions, final weights)}"""
    found = {}
    for ranks in (1, 2):
        folder = tmp_path_factory.mktemp("uninterrupted")
        (code, calls, output), *_ = faults.train(arguments(corpus, cache, folder / "runs", SETTINGS), folder, ranks=ranks)
        assert code == 0, output
        found[ranks] = calls, weights(folder / "runs")
    return found


def survives(kind, moment, corpus, cache, folder, uninterrupted):
    """One fault at the ``moment``, a share of the run, and the resumption; the final weights must be the same."""
    rng = random.Random(f"{kind} {moment}")
    ranks = 2 if kind == "rank killed" else 1
    calls, expected = uninterrupted[ranks]
    settings = SETTINGS + ["num_workers=1"] * (kind == "worker killed")
    args = arguments(corpus, cache, folder / "runs", settings, ["--resume", "auto"])
    ended = faults.train(args, folder, kind, max(int(moment * calls), 1), ranks, victim=rng.randrange(ranks))
    for code, _, output in ended:
        if output is not None:
            assert "Traceback" not in output, output
            assert code in (0, 2, 143), output
            assert code != 2 or "\nerror: " in f"\n{output}" or not output           # a second process leaves it to the first
    if kind in ("truncated", "bit flipped"):
        for run in (folder / "runs").iterdir():
            faults.damage(run, kind, rng)
    if not list((folder / "runs").glob("*/metrics.json")):
        for code, _, output in faults.train(args, folder, ranks=ranks):
            assert code == 0, output
    ours = weights(folder / "runs")
    assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)


@pytest.mark.parametrize("kind, moment", [
    ("kill", 0.45), ("terminate", 0.3), ("full disk", 0.5), ("failed rename", 0.4), ("bit flipped", 0.7),
    ("worker killed", 0.5), ("rank killed", 0.6),
])
def test_a_fault(kind, moment, corpus, cache, tmp_path, uninterrupted):
    survives(kind, moment, corpus, cache, tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(100))
def test_a_hundred_faults(number, corpus, cache, tmp_path, uninterrupted):
    survives(faults.KINDS[number % len(faults.KINDS)], random.Random(number).random(), corpus, cache, tmp_path,
             uninterrupted)


def test_ranks_do_not_outlive_torchrun(corpus, cache, tmp_path):
    """Killed, the launcher can't end them: they save and leave."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "main-pretrain.py")]
    process = subprocess.Popen([*torchrun, *arguments(corpus, cache, tmp_path, [*SETTINGS, "max_steps=100000"])], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for line in process.stdout:
        if line.startswith("step 3/"):
            break
    process.kill()
    output = process.stdout.read()                          # to its end: no process holds the pipe any more
    process.wait()
    assert "stopped at step" in output
    run, = tmp_path.iterdir()
    assert checkpoints.newest(run / "checkpoints")


def test_a_full_disk_in_the_log(tmp_path):
    run = Run(tmp_path)
    run._log.close()
    run._log = open("/dev/full", "w")
    with pytest.raises(RunError, match="log.jsonl: No space left on device"):
        run.log({"kind": "train", "step": 1})
    run._log = open(os.devnull, "w")
    run.close()


def test_a_folder_has_one_writer(corpus, cache, tmp_path):
    """While a run trains, another process is refused its folder; once it is killed, it is not."""
    process = script("main-pretrain.py", arguments(corpus, cache, tmp_path, [*SETTINGS, "max_steps=100000"]))
    for line in process.stdout:
        if line.startswith("step 3/"):
            break
    run, = tmp_path.iterdir()
    with pytest.raises(RunError, match="another process is training"):
        Run(run, 2)
    process.kill()
    process.communicate()
    Run(run, 2).close()
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize("flip", range(0, 8, 3))
def test_every_bit_of_a_checkpoint_counts(flip, tmp_path):
    (tmp_path / "state.json").write_text('{"step": 4}')
    (tmp_path / "model.safetensors").write_bytes(bytes(range(50)))
    write_sums(tmp_path)
    check_sums(tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, capture_output=True, check=True)
    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        for place in range(len(whole)):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << flip]) + whole[place + 1:])
            with pytest.raises(ModelError):
                check_sums(tmp_path)
            file.write_bytes(whole[:place])
            with pytest.raises(ModelError):
                check_sums(tmp_path)
        file.write_bytes(whole)
    (tmp_path / "more").touch()
    with pytest.raises(ModelError, match="not in"):
        check_sums(tmp_path)


def test_from_pretrained_takes_the_newest_good_one(corpus, cache, tmp_path, caplog):
    assert faults.train(arguments(corpus, cache, tmp_path / "runs", SETTINGS), tmp_path)[0][0] == 0
    run, = (tmp_path / "runs").iterdir()
    file = run / "checkpoints" / "step-0000008" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert checkpoint_folder(run) == run / "checkpoints" / "step-0000006" and "step-0000008" in caplog.text


def test_auto_knows_its_run(corpus, cache, tmp_path):
    """It goes on with a run of the same settings, and with no other; a finished one is followed by a new one."""
    def auto(settings, moment=0):
        args = arguments(corpus, cache, tmp_path / "runs", settings, ["--resume", "auto"])
        return faults.train(args, tmp_path, "kill" if moment else None, moment)[0]

    def runs():
        return len(list((tmp_path / "runs").iterdir()))

    calls = auto(SETTINGS)[1]
    assert runs() == 1 and auto(SETTINGS, int(0.7 * calls))[0] == -signal.SIGKILL and runs() == 2
    assert auto([*SETTINGS, "seed=1"])[0] == 0 and runs() == 3
    assert auto([*SETTINGS, "log_every=2"])[0] == 0 and runs() == 3


def test_a_finished_run_of_a_restarted_launch(corpus, cache, tmp_path, pretrain, finetune, monkeypatch):
    """Where a process dies as the training ends, torchrun starts all again: they find that nothing is left to do."""
    def start(script, command, name, restarts, runs):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        result = script(command)
        assert result.code == 0, result.err
        assert len(list(tmp_path.glob("*/config.json"))) == runs
        return "nothing is left to do" in result.out

    command = arguments(corpus, cache, tmp_path, SETTINGS, ["--resume", "auto"])
    ended = [start(pretrain, command, *case) for case in (("one", 0, 1), ("one", 1, 1), ("two", 1, 2), ("none", 1, 3))]
    assert ended == [False, True, False, False]
    newest = max(tmp_path.glob("pretrain-*"))                          # interrupted; the launch "four" goes on with it
    (newest / "metrics.json").unlink()
    shutil.rmtree(checkpoints.listed(newest / "checkpoints")[-1])
    assert [start(pretrain, command, "four", restarts, 3) for restarts in (0, 1)] == [False, True]
    checkpoint, *_ = tmp_path.glob("pretrain-*")
    table = tmp_path / "table.csv"
    table.write_text("text,label\n" + "".join(f"{word},{word[0]}\n" for word in ["a b", "b a", "a c", "b c"] * 10))
    command = ["--task", "classify", "--init-from", str(checkpoint), "--data", str(table), "--cpu", "--tqdm-off",
               "--cache-dir", str(cache), "--runs-dir", str(tmp_path), "--resume", "auto", "--set", "max_epochs=1"]
    assert [start(finetune, command, "one", restarts, 4) for restarts in (0, 1)] == [False, True]


@pytest.mark.slow
def test_torchrun_restarts_by_itself(corpus, cache, tmp_path):
    """One rank is killed; torchrun starts both again, and --resume auto finds the run."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                "--max-restarts", "2", str(ROOT / "main-pretrain.py")]
    process = subprocess.Popen([*torchrun, *arguments(corpus, cache, tmp_path, [*SETTINGS, "max_steps=60"],
                                                      ["--resume", "auto"])], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    for line in process.stdout:
        if line.startswith("step 9/"):
            break
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], text=True, capture_output=True).stdout
    os.kill(max(map(int, children.split())), signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    run, = tmp_path.iterdir()
    assert "step 60/60" in output and (run / "metrics.json").exists()


@pytest.mark.slow
def test_fine_tuning_goes_on_by_itself(corpus, cache, tmp_path):
    """Killed, and started again by the same command, to the same predictions; a finished run is not gone on with."""
    assert faults.train(arguments(corpus, cache, tmp_path / "pretrained", SETTINGS), tmp_path)[0][0] == 0
    checkpoint, = (tmp_path / "pretrained").iterdir()
    lines = [line for line in (corpus / "00.txt").read_text().splitlines()]
    table = tmp_path / "table.csv"
    table.write_text("text,label\n" + "".join(f"{line},{'ab'[len(line) % 2]}\n" for line in lines))
    sets = [part for setting in ("batch_size=4", "max_epochs=2", "save_every=2", "hidden_dropout_prob=0.1",
                                 "precision=fp32") for part in ("--set", setting)]

    def finetune(runs, kind=None, moment=0):
        args = ["--task", "classify", "--init-from", str(checkpoint), "--data", str(table), "--cpu", "--tqdm-off",
                "--cache-dir", str(cache), "--runs-dir", str(tmp_path / runs), "--resume", "auto", *sets]
        return faults.train(args, tmp_path, kind, moment, script="main-finetune.py")[0]

    def only(runs):
        run, = (tmp_path / runs).iterdir()
        return (run / "predictions.csv").read_text()

    code, calls, output = finetune("whole")
    assert code == 0, output
    assert finetune("cut", "kill", calls // 2)[0] == -signal.SIGKILL
    code, _, output = finetune("cut")
    assert code == 0 and only("cut") == only("whole"), output
    assert finetune("cut")[0] == 0 and len(list((tmp_path / "cut").iterdir())) == 2
