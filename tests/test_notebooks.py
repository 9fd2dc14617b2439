"""The notebooks run from the first cell to the last on small checkpoints."""
import csv
import random

import nbformat
from conftest import ROOT, arguments
from nbclient import NotebookClient
from test_finetune import checkpoint, reviews  # noqa: F401


def execute(name, monkeypatch, **environment):
    """What each code cell prints."""
    for key, value in environment.items():
        monkeypatch.setenv(key, str(value))
    notebook = nbformat.read(ROOT / "notebooks" / name, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in code), "committed without outputs"
    NotebookClient(notebook, timeout=300, kernel_name="python3",
                   resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in code]


def test_pretrained(corpus, cache, tmp_path, pretrain, monkeypatch):
    assert pretrain(arguments(corpus, cache, tmp_path, ["conv_kernel_size=3"])).code == 0
    run, = tmp_path.iterdir()
    texts = execute("pretrained.ipynb", monkeypatch, ALBERT_RUN=run)
    assert "'seq_len': 32" in texts[0] and "landmarks" in texts[-1]


def test_finetuned(checkpoint, tmp_path, monkeypatch):  # noqa: F811
    with open(tmp_path / "reviews.csv", "w", newline="") as file:
        csv.writer(file).writerows([("review", "verdict"), *reviews(random.Random(0), 40)])
    texts = execute("finetuned.ipynb", monkeypatch, ALBERT_CHECKPOINT=checkpoint, ALBERT_RUNS=tmp_path / "runs",
                    ALBERT_CSV=tmp_path / "reviews.csv")
    assert "best of step" in texts[1] and "wrong" in texts[3]


def test_native(monkeypatch):
    texts = execute("native.ipynb", monkeypatch)
    assert "best path" in texts[3] and "equal: the ids of" in texts[-1]
