"""Hostile files: each is refused in one line, and nothing of them runs."""
import json
import os
import pickle
import shutil
import struct
import zipfile

import pytest
import torch
from conftest import arguments, refused
from safetensors.torch import load_file, save_file

from albert import AlbertConfig, AlbertForPretraining, ModelError
from albert.checksums import SUMS, write_sums
from albert.weights import WEIGHT_FILES
from data.errors import DataError
from data.tokenizer import load_tokenizer
from trainer import checkpoints
from trainer.errors import RunError

TINY = dict(vocab_size=200, embedding_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=32)
DEEP = "[" * 100_000
HUGE = "1" + "0" * 5000
FAULTS = (ModelError, DataError, RunError)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    AlbertForPretraining(AlbertConfig(**TINY)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(corpus, cache, tmp_path_factory):
    import faults
    folder = tmp_path_factory.mktemp("runs")
    settings = ["max_steps=4", "save_every=2", "warmup_steps=1", "eval_every=4"]
    assert faults.train(arguments(corpus, cache, folder / "runs", settings), folder)[0][0] == 0
    found, = (folder / "runs").iterdir()
    return found


def bombs(place):
    """The bomb as a bare pickle, and in the two formats of torch.save."""
    yield pickle.dumps(Bomb(place))
    yield pickle.dumps({"albert.embeddings.word_embeddings.weight": Bomb(place)}, protocol=2)
    for new in (True, False):
        path = place.with_name("bomb")
        torch.save({"weight": Bomb(place)}, path, _use_new_zipfile_serialization=new)
        yield path.read_bytes()


@pytest.mark.parametrize("name", [*WEIGHT_FILES, "config.json"])
def test_a_pickle_bomb_in_a_model(model, tmp_path, name):
    for bomb in bombs(tmp_path / "exploded"):
        for weights in WEIGHT_FILES:
            (model / weights).unlink(missing_ok=True)
        (model / name).write_bytes(bomb)
        with pytest.raises(ModelError) as fault:
            AlbertForPretraining.from_pretrained(model)
        assert "\n" not in str(fault.value) and str(model) in str(fault.value)
        assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("index, shard", [("model.safetensors.index.json", "model-1.safetensors"),
                                          ("pytorch_model.bin.index.json", "pytorch_model-1.bin")])
def test_a_pickle_bomb_in_a_shard(model, tmp_path, index, shard):
    (model / "model.safetensors").unlink()
    (model / index).write_text(json.dumps({"weight_map": {"weight": shard}}))
    for bomb in bombs(tmp_path / "exploded"):
        (model / shard).write_bytes(bomb)
        with pytest.raises(ModelError, match="model"):
            AlbertForPretraining.from_pretrained(model)
        assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model", "vocab.txt", "tokenizer_config.json"])
def test_a_pickle_bomb_in_a_tokenizer(tmp_path, name):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for bomb in bombs(tmp_path / "exploded"):
        if name == "tokenizer_config.json":
            (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
        (folder / name).write_bytes(bomb)
        with pytest.raises(DataError) as fault:
            load_tokenizer(folder)
        assert "\n" not in str(fault.value) and not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["training_state.json", "training_state.safetensors", SUMS, "model.safetensors",
                                  "config.json", "tokenizer.json"])
def test_a_pickle_bomb_in_a_checkpoint(run, tmp_path, pretrain, name):
    """Even where its author has made the checksums agree."""
    bomb, *_ = bombs(tmp_path / "exploded")
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for folder in checkpoints.listed(copy / "checkpoints"):
        (folder / name).write_bytes(bomb)
        if name != SUMS:
            (folder / SUMS).unlink()
            write_sums(folder)
    result = pretrain(["--resume", str(copy), "--cpu", "--tqdm-off"])
    if name == "tokenizer.json":                       # the run's own is read
        assert result.code == 0
    else:
        refused(result, str(copy))
    assert not (tmp_path / "exploded").exists()


def test_a_changed_file_of_a_checkpoint_that_is_named_directly(run, tmp_path):
    step = tmp_path / "step"
    shutil.copytree(checkpoints.listed(run / "checkpoints")[-1], step)
    AlbertForPretraining.from_pretrained(step)
    config = (step / "config.json").read_text()
    (step / "config.json").write_text(config.replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-2'))
    with pytest.raises(ModelError, match=f"config.json is not as it was written.*delete {SUMS}"):
        AlbertForPretraining.from_pretrained(step)
    (step / SUMS).unlink()
    assert AlbertForPretraining.from_pretrained(step).config.layer_norm_eps == 0.01


@pytest.mark.parametrize("shard", ["../other/model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", 5, None,
                                   "config.json", "weights.bin"])
def test_paths_in_a_shard_index(model, tmp_path, shard):
    shutil.copytree(model, tmp_path / "other")
    (model / "model.safetensors").rename(model / "weights.bin")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": shard}}))
    with pytest.raises(ModelError, match="which is not a .safetensors file of this folder"):
        AlbertForPretraining.from_pretrained(model)


@pytest.mark.parametrize("text", [DEEP, '{"weight_map": ' + DEEP, '{"weight_map": {"a": ["b"]}}', "[]", "{}",
                                  '{"weight_map": 3}'])
def test_a_hostile_shard_index(model, text):
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match="index.json"):
        AlbertForPretraining.from_pretrained(model)


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "inner_group_num", "num_attention_heads",
                                 "intermediate_size", "max_position_embeddings", "layer_norm_eps", "initializer_range",
                                 "hidden_dropout_prob", "num_landmarks", "hidden_act", "share", "id2label"])
@pytest.mark.parametrize("value", [HUGE, "1" + "0" * 400, "1e999", "NaN", "-1", "99999999999", '"x"', "{}", "[]",
                                   '{"a": "b"}', '{"99999999999999": "b"}', DEEP])
def test_a_hostile_config(model, key, value):
    config = json.loads((model / "config.json").read_text())
    config.pop(key, None)
    text = json.dumps(config)
    (model / "config.json").write_text(f'{text[:-1]}, "{key}": {value}}}')
    try:
        AlbertForPretraining.from_pretrained(model)
    except ModelError as fault:
        assert "\n" not in str(fault) and "config.json" in str(fault) and len(str(fault)) < 500
    else:
        assert (key, value) == ("initializer_range", "99999999999") or key == "id2label" and value == "{}", (key, value)


@pytest.mark.parametrize("header, data", [
    ({"w": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}, b"1234"),
    ({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"1234"),
    ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"1234"),
    ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "v": {"dtype": "F32", "shape": [1],
                                                                         "data_offsets": [0, 4]}}, b"1234"),
    ({"w": {"dtype": "pickle", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    ({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
    ("[" * 100_000, b""),
    (None, struct.pack("<Q", 1 << 62) + b"{}"),
    (None, b""),
])
def test_a_safetensors_header_that_lies(model, header, data):
    if header is not None:
        text = (header if isinstance(header, str) else json.dumps(header)).encode()
        data = struct.pack("<Q", len(text)) + text + data
    (model / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelError) as fault:
        AlbertForPretraining.from_pretrained(model)
    assert "\n" not in str(fault.value) and "model.safetensors" in str(fault.value)


def test_a_zip_with_paths_is_not_unpacked(model, tmp_path):
    (model / "model.safetensors").unlink()
    with zipfile.ZipFile(model / "pytorch_model.bin", "w") as archive:
        archive.writestr("../../escaped", "x")
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(ModelError, match="pytorch_model.bin"):
        AlbertForPretraining.from_pretrained(model)
    assert not list(tmp_path.rglob("escaped")) and not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("change", [
    {"data": 5}, {"data": {"a": 1}}, {"model": []}, {"model": "__import__('os')"}, {"batch_size": "abc"},
    {"batch_size": 10 ** 30}, {"learning_rate": "1"}, {"optimizer": {"a": 1}}, {"seed": []}, {"whole_words": 3},
    {"cache_dir": 5}, {"cpu": "yes"}, {"eval_every": "abc"}, {"preprocess": "none"}, None])
def test_a_hostile_run(run, tmp_path, pretrain, change):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = json.loads((run / "config.json").read_text())
    (copy / "config.json").write_text(DEEP if change is None else json.dumps({**config, **change}))
    refused(pretrain(["--resume", str(copy), "--cpu", "--tqdm-off"]))


@pytest.mark.parametrize("change", [
    {"step": "4"}, {"position": 5}, {"position": {"epoch": -1, "sample": "x"}}, {"tokens": None}, {"window": 3},
    {"best": {"step": None, "score": "abc"}}, {"scaler": []}, DEEP, "5", {"window": {"mlm_loss": 10 ** 400}},
    {"position": {}}, {"position": {"epoch": 0, "sample": 10 ** 15}}, {"scaler": {"scale": "5"}}, {"scaler": {}},
    {"best": {"step": "x", "score": 1.0}}])
def test_a_hostile_state(run, tmp_path, pretrain, change):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for folder in checkpoints.listed(copy / "checkpoints"):
        file = folder / "training_state.json"
        state = json.loads(file.read_text())
        file.write_text(change if isinstance(change, str) else json.dumps({**state, **change}))
        (folder / SUMS).unlink()
        write_sums(folder)
    config = json.loads((run / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "max_steps": 6}))           # there is something left to train
    refused(pretrain(["--resume", str(copy), "--cpu", "--tqdm-off"]))


@pytest.mark.parametrize("name", ["0/0", "9/0/exp_avg", "0/0/momentum", "1/0/exp_avg", "0/999/exp_avg", "0/0/exp_avg",
                                  "x/y/z"])
def test_hostile_optimizer_tensors(run, tmp_path, pretrain, name):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for folder in checkpoints.listed(copy / "checkpoints"):
        save_file({name: torch.zeros(3, 3)}, folder / "training_state.safetensors")
        (folder / SUMS).unlink()
        write_sums(folder)
    refused(pretrain(["--resume", str(copy), "--cpu", "--tqdm-off"]), "training_state.safetensors")


@pytest.mark.parametrize("slot, tensor", [("exp_avg", torch.tensor(1.0)), ("momentum_buffer", torch.tensor(1.0)),
                                          ("step", torch.zeros(3)), ("step", torch.tensor(1))])
def test_optimizer_tensors_of_other_shapes(run, tmp_path, pretrain, slot, tensor):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for folder in checkpoints.listed(copy / "checkpoints"):
        file = folder / "training_state.safetensors"
        state = load_file(file)
        changed = {name: tensor.clone() for name in state if name.endswith(f"/{slot}")}
        assert changed
        save_file({**state, **changed}, file)
        (folder / SUMS).unlink()
        write_sums(folder)
    refused(pretrain(["--resume", str(copy), "--cpu", "--tqdm-off"]), "training_state.safetensors")


def test_links_in_a_run_s_folder(run, tmp_path, pretrain):
    """None leads the run to write anywhere else, and none to a device is read."""
    copy, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(run, copy)
    other.write_text("precious")
    (copy / "metrics.json").unlink()
    (copy / "metrics.json.tmp").symlink_to(other)
    command = ["--resume", str(copy), "--cpu", "--tqdm-off"]
    assert pretrain(command).code == 0 and other.read_text() == "precious" and not (copy / "metrics.json").is_symlink()
    (copy / "log.jsonl").unlink()
    (copy / "log.jsonl").symlink_to(other)
    refused(pretrain(command), "log.jsonl: a link")
    assert other.read_text() == "precious"
    (copy / "log.jsonl").unlink()
    for folder in checkpoints.listed(copy / "checkpoints"):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").symlink_to("/dev/zero")
    refused(pretrain(command), "checkpoint")
