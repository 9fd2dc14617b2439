"""Who may import whom."""
import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"albert", "data", "trainer", "hps"}


def imports(path, inside_functions=True):
    return (name.split(".")[0] for name in modules(path, inside_functions))


def modules(path, inside_functions=True):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if inside_functions else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("package, allowed", [("data", set()), ("albert", set()), ("trainer", {"albert", "data"})])
def test_layers(package, allowed):
    for path in (ROOT / package).rglob("*.py"):
        extra = {"data"} if path.parent.name == "pipeline" else set()
        assert set(imports(path)) & OURS <= allowed | {package} | extra, path


def test_albert_needs_little():
    allowed = {"torch", "einops", "safetensors", "albert"} | sys.stdlib_module_names
    for path in (ROOT / "albert").rglob("*.py"):
        assert set(imports(path, inside_functions=False)) <= allowed, path


def test_native_pipeline_needs_the_standard_library_and_numpy():
    """Of our own it uses the splitting of sentences, which needs sentencex, the folders of the cache and the class of errors;
    text files are opened by the script."""
    allowed = {"numpy"} | sys.stdlib_module_names
    for path in (ROOT / "data" / "native").rglob("*.py"):
        for name in modules(path):
            ours = name in ("data.building", "data.errors", "data.sentences") or name.startswith("data.native")
            assert ours or name.split(".")[0] in allowed, (path, name)


def test_hps_needs_the_standard_library_alone():
    assert set(imports(ROOT / "hps.py")) <= sys.stdlib_module_names


@pytest.mark.parametrize("script", ["main-pretrain.py", "main-finetune.py", "main-inference.py"])
def test_openmp_is_set_before_torch_is_loaded(script):
    """`albert` is the first of the script's imports but tqdm, which has no torch, and albert.openmp that of `albert`."""
    names = modules(ROOT / script, inside_functions=False)
    assert next(name for name in names if name.split(".")[0] not in {*sys.stdlib_module_names, "tqdm"}) == "albert"
    assert next(modules(ROOT / "albert" / "__init__.py", inside_functions=False)) == "albert.openmp"
