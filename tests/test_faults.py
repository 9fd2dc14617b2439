"""Training killed, starved and damaged at moments drawn by a seed, resumed each time: the weights come out the same."""
import random

import faults
import pytest
import torch
from conftest import arguments
from safetensors.torch import load_file

SETTINGS = ["hidden_dropout_prob=0.1", "precision=fp32", "save_every=2", "max_steps=8", "eval_every=4", "optimizer=adamw",
            "seq_len=16", "keep_checkpoints=3"]


def weights(runs):
    """The final weights of the only finished run of a folder."""
    finished, = [path.parent for path in runs.glob("*/metrics.json")]
    assert not list(runs.rglob("*.tmp"))
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
            assert code != 2 or "\nerror: " in output or not output           # a second process leaves it to the first
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
