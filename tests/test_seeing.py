"""What a run says of itself: the log, profiles, estimates, comparisons."""
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import faults
import pytest
import torch
from conftest import ROOT, arguments, refused
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode

from albert import AlbertConfig, AlbertForPretraining
from trainer import machine
from trainer.flops import flops_per_token, peak_flops
from trainer.profiling import _report

SETTINGS = ["max_steps=6", "save_every=6", "eval_every=3", "precision=fp32"]


@pytest.mark.parametrize("changes", [{}, {"share": "none"}, {"embedding_size": 32}, {"num_hidden_layers": 5},
                                     {"attention": "linear"}, {"attention": "linformer", "num_landmarks": 16},
                                     {"attention": "performer", "num_features": 32}])
@pytest.mark.parametrize("read", [1.0, 0.25])
def test_operations_are_those_that_pytorch_counts(changes, read):
    shape = dict(vocab_size=100, embedding_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                 intermediate_size=64, max_position_embeddings=64, sentence_objective="none")
    config = AlbertConfig(**{**shape, **changes})
    model = AlbertForPretraining(config)
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with math, FlopCounterMode(display=False) as counter:
        positions = None if read == 1 else torch.arange(0, 4 * 64, 4)
        logits = model(torch.randint(5, 100, (4, 64)), masked_positions=positions).mlm_logits
        logits.sum().backward()
    assert flops_per_token(config, 64, read, read) * 4 * 64 == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_peak_is_measured():
    assert 1e8 < peak_flops(torch.device("cpu"), None) < 1e14


@pytest.mark.parametrize("name, peak", [("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 PCIe", 756e12), ("Tesla T4", 65e12),
                                        ("NVIDIA RTX A1000 Laptop GPU", None), ("NVIDIA T400", None), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None), ("NVIDIA H100 NVL", None),
                                        ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA GeForce RTX 4090 D", None),
                                        ("NVIDIA GeForce RTX 3090 Ti", None), ("NVIDIA GeForce RTX 3090", 71e12)])
def test_the_peak_of_a_gpu_is_that_of_its_whole_name(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr("trainer.flops.matmul_flops", lambda *args: None)
    assert peak_flops(torch.device("cuda"), torch.bfloat16) == peak


def test_of_a_gpu_kernels_are_ranked_and_nothing_twice(capsys):
    """PyTorch's averages have a kernel's time in its own row, in that of its operator and in that of an annotation."""
    def row(key, time, kind, note=False):
        return SimpleNamespace(key=key, self_device_time_total=time, device_type=kind, is_user_annotation=note, count=1)

    rows = [row("aten::mm", 3000, DeviceType.CPU), row("sm90_gemm", 3000, DeviceType.CUDA),
            row("aten::add", 1000, DeviceType.CPU), row("add_kernel", 1000, DeviceType.CUDA),
            row("Optimizer.step", 4000, DeviceType.CUDA, note=True)]
    _report(SimpleNamespace(key_averages=lambda: rows), 2, torch.device("cuda"), None)
    said = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] + " " + line.split()[-1] for line in said] == ["75.0% sm90_gemm", "25.0% add_kernel"]


def test_every_line_says_how_it_goes(corpus, cache, tmp_path, pretrain):
    result = pretrain(arguments(corpus, cache, tmp_path, SETTINGS, ["--profile", "2"]))
    assert result.code == 0, result.err
    run, = tmp_path.iterdir()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "train":
            assert line["gradient_norm"] > 0 and line["loss_scale"] == 1 and line["skipped_steps"] == 0
            assert 0 < line["mfu"] < 1.5 and 0 <= line["data_wait_share"] < 1 and line["tokens_per_second"] > 0
            assert 1e7 < line["peak_memory"] < 1e12
    assert result.out.count(" calls an update ") == 5 and "2 updates profiled" in result.out
    assert json.loads((run / "trace.json").read_text())["traceEvents"]
    short = [*SETTINGS, "max_steps=4", "warmup_steps=1"]
    result = pretrain(arguments(corpus, cache, tmp_path / "none", short, ["--profile", "50", "--no-save"]))
    assert result.code == 0 and "2 updates profiled;" in result.out, result.err


def test_a_dry_run_trains_nothing(corpus, cache, tmp_path, pretrain):
    result = pretrain(arguments(corpus, cache, tmp_path / "runs", SETTINGS, ["--dry-run"]))
    assert result.code == 0 and not (tmp_path / "runs").exists(), result.err
    for word in ("parameters:", "tokens an epoch:", "memory:", "GiB", "time:"):
        assert word in result.out
    epochs = float(re.search(r"([\d.]+) epochs", result.out)[1])
    sequences = int(re.search(r"([\d,]+) sequences an epoch", pretrain(arguments(
        corpus, cache, tmp_path / "none", SETTINGS, ["--no-save"])).out)[1].replace(",", ""))
    steps, size = (int(re.search(pattern, result.out)[1]) for pattern in (r"in ([\d]+) updates", r"updates of (\d+)"))
    assert epochs == pytest.approx(steps * size / sequences, abs=0.06)


@pytest.mark.slow
def test_wandb_offline(corpus, cache, tmp_path):
    pytest.importorskip("wandb")
    done = subprocess.run([sys.executable, ROOT / "main-pretrain.py",
                           *arguments(corpus, cache, tmp_path, SETTINGS, ["--log", "wandb"])], cwd=ROOT, text=True,
                          capture_output=True, env={**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"})
    assert done.returncode == 0, done.stderr
    run, = tmp_path.iterdir()
    written, = run.glob("wandb/offline-run-*/*.wandb")
    assert b"train/mlm_loss" in written.read_bytes()


def test_wandb_absent(corpus, cache, tmp_path, pretrain, monkeypatch):
    import importlib.util
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else found(name, *rest))
    refused(pretrain(arguments(corpus, cache, tmp_path / "runs", SETTINGS, ["--log", "wandb"])), "pip install wandb")
    assert not (tmp_path / "runs").exists()


def test_runs_are_compared(corpus, cache, tmp_path):
    for seed in (0, 1):
        settings = [*SETTINGS, f"seed={seed}"]
        assert faults.train(arguments(corpus, cache, tmp_path / "runs", settings), tmp_path)[0][0] == 0
    runs = sorted((tmp_path / "runs").iterdir())
    done = subprocess.run([sys.executable, ROOT / "bench" / "compare.py", *runs, "reviews.csv", "--output", "both.png"],
                          cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0 and done.stderr == "passing over reviews.csv: no run there\n", done.stderr
    best = [json.loads((run / "metrics.json").read_text())["dev"]["loss"] for run in runs]
    header, *rows = done.stdout.strip().splitlines()
    assert "mlm_loss" in header and "seed" in header
    assert all(run.name in row and f"{loss:.4f}" in row for run, row, loss in zip(runs, rows, best))
    assert (tmp_path / "both.png").read_bytes()[:4] == b"\x89PNG"
    done = subprocess.run([sys.executable, ROOT / "bench" / "compare.py", tmp_path], text=True, capture_output=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1


def test_wandb_without_a_login(corpus, cache, tmp_path, pretrain, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def init(**settings):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.\nMore about it")

    monkeypatch.setattr(wandb, "init", init)
    refused(pretrain(arguments(corpus, cache, tmp_path / "runs", SETTINGS, ["--log", "wandb"])), "No API key",
            "WANDB_MODE=offline")
    assert not list((tmp_path / "runs").glob("pretrain-*"))                # nothing was begun


def test_a_git_that_takes_too_long_is_not_waited_for(monkeypatch):
    def takes_long(*args, timeout, **kwargs):
        raise subprocess.TimeoutExpired("git", timeout)
    monkeypatch.setattr(subprocess, "run", takes_long)
    assert machine.environment(torch.device("cpu"))["git_commit"] is None
