import os
import random
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ["OMP_NUM_THREADS"] = "1"     # before torch: runs in this process and in others must round alike
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")      # what is compared here is the CPU's
ROOT = Path(__file__).resolve().parents[1]
TINY_RUN = ["hidden_size=32", "num_attention_heads=2", "intermediate_size=64", "embedding_size=16", "vocab_size=200",
            "num_hidden_layers=2", "seq_len=32", "batch_size=8", "micro_batch_size=4", "max_steps=12", "warmup_steps=2",
            "save_every=4", "eval_every=6", "eval_sequences=16", "log_every=1", "heldout_fraction=0.2"]


@pytest.fixture(scope="session")
def shared():
    """Folder with real text and tasks to try on; tests that need it are skipped where it is absent."""
    path = Path(os.environ.get("ALBERT_SHARED", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no data folder at {path} (set ALBERT_SHARED)")
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder of twelve text files of made-up sentences, one paragraph a line."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    words = ["".join(rng.choices("aeioubcdfglmnprst", k=rng.randint(2, 8))) for _ in range(300)]
    for number in range(12):
        paragraphs = []
        for _ in range(30):
            sentences = [" ".join(rng.choices(words, k=rng.randint(3, 9))).capitalize() + "." for _ in range(4)]
            paragraphs.append(" ".join(sentences))
        (folder / f"{number:02}.txt").write_text("\n".join(paragraphs) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def arguments(corpus, cache, runs, settings=(), flags=()):
    """Command line of a small pretraining run on the CPU."""
    sets = [part for setting in (*TINY_RUN, *settings) for part in ("--set", setting)]
    return ["--model", "tiny", "--data", str(corpus), "--cache-dir", str(cache), "--runs-dir", str(runs),
            "--cpu", "--tqdm-off", *flags, *sets]


def script(name, args, **kwargs):
    """The script as a process of its own, started and not waited for."""
    return subprocess.Popen([sys.executable, ROOT / name, *args], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **kwargs)


def _in_process(name):
    @pytest.fixture
    def call(monkeypatch, capsys):
        """Run the script in this process: called with its arguments, returns code, out and err."""
        def run(args):
            monkeypatch.setattr(sys, "argv", [name, *args])
            monkeypatch.syspath_prepend(str(ROOT))
            with pytest.raises(SystemExit) as leaving:
                runpy.run_path(str(ROOT / name), run_name="__main__")
            captured = capsys.readouterr()
            return SimpleNamespace(code=leaving.value.code, out=captured.out, err=captured.err)
        return run
    return call


pretrain = _in_process("main-pretrain.py")
finetune = _in_process("main-finetune.py")
inference = _in_process("main-inference.py")


def refused(result, *words):
    """Assert that a script ended with code 2 and one line of these words."""
    assert result.code == 2, result.err
    lines = result.err.strip().splitlines()
    assert lines[-1].startswith("error: ") and "Traceback" not in result.err
    for word in words:
        assert word in lines[-1]
