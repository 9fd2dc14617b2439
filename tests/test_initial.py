"""--init-from: what a run takes over from a checkpoint, and what it changes."""
import json
import shutil

import pytest
import torch
from conftest import arguments

from albert import AlbertConfig, AlbertForPretraining
from data.tokenizer import load_tokenizer, save_tokenizer
from data.tokenizer_training import train_tokenizer


@pytest.fixture(scope="module")
def checkpoint(corpus, tmp_path_factory):
    """A small model in the Hugging Face layout with its tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_tokenizer((path.read_text() for path in sorted(corpus.iterdir())), "unigram", 150, 0, False)
    torch.manual_seed(0)
    model = AlbertForPretraining(AlbertConfig(
        vocab_size=tokenizer.get_vocab_size(), embedding_size=16, hidden_size=24, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=48, max_position_embeddings=40))
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def continued(checkpoint, corpus, cache, runs, pretrain, settings=(), flags=()):
    """One update at a learning rate of nearly nothing; returns its output, config.json and model."""
    training = ["--set", "seq_len=32", "--set", "batch_size=8", "--set", "micro_batch_size=8", "--set", "max_steps=2",
                "--set", "warmup_steps=1", "--set", "eval_sequences=16", "--set", "learning_rate=1e-12",
                "--set", "muon_learning_rate=1e-12", "--set", "weight_decay=0"]
    result = pretrain(["--model", "tiny", "--data", str(corpus), "--cache-dir", str(cache), "--runs-dir", str(runs),
                       "--cpu", "--tqdm-off", "--init-from", str(checkpoint), *training,
                       *(part for setting in settings for part in ("--set", setting)), *flags])
    assert result.code == 0, result.err
    run, = runs.iterdir()
    return result.out, json.loads((run / "config.json").read_text()), AlbertForPretraining.from_pretrained(run)


def same(one, other, rows=slice(None)):
    return torch.allclose(one.detach()[rows], other.detach()[rows], atol=1e-6)


def test_the_architecture_is_the_checkpoints(checkpoint, corpus, cache, tmp_path, pretrain):
    _, config, model = continued(checkpoint, corpus, cache, tmp_path, pretrain)
    before = AlbertForPretraining.from_pretrained(checkpoint)
    assert model.config == before.config
    assert (config["hidden_size"], config["num_hidden_layers"], config["norm_position"]) == (24, 3, "post")
    assert config["max_position_embeddings"] == 40 and config["init_from"] == str(checkpoint)
    ids = torch.randint(5, 100, (2, 20))
    assert same(model(ids).mlm_logits, before(ids).mlm_logits)


def test_positions_attention_and_dropout_change_when_asked(checkpoint, corpus, cache, tmp_path, pretrain):
    out, config, model = continued(checkpoint, corpus, cache, tmp_path, pretrain,
                                   ["seq_len=64", "attention=nystrom", "num_landmarks=16", "hidden_dropout_prob=0.1"])
    before = AlbertForPretraining.from_pretrained(checkpoint)
    assert "positions extended from 40 to 64" in out and "softmax -> nystrom" in out and "hidden_dropout_prob 0.0 -> 0.1" in out
    assert (config["attention"], config["max_position_embeddings"], config["conv_kernel_size"]) == ("nystrom", 64, 33)
    assert model.albert.embeddings.position_embeddings.weight.shape[0] == 64
    query = "encoder.attention.0.query.weight"
    assert same(model.albert.get_parameter(query), before.albert.get_parameter(query))


def test_shared_pieces_keep_their_rows_under_another_tokenizer(checkpoint, corpus, cache, tmp_path, pretrain):
    other = tmp_path / "other"
    tokenizer = train_tokenizer((path.read_text() for path in sorted(corpus.iterdir())), "unigram", 300, 0, False)
    save_tokenizer(tokenizer, other)
    out, config, model = continued(checkpoint, corpus, cache, tmp_path / "runs", pretrain,
                                   ["vocab_size=290", "lower_case=false"], ["--tokenizer", str(other)])
    assert "vocab_size=290 is not used" in out and "lower_case=false is not used" in out.lower()
    assert "embeddings kept" in out and config["vocab_size"] == tokenizer.get_vocab_size()
    before = AlbertForPretraining.from_pretrained(checkpoint).albert.embeddings.word_embeddings.weight
    after = model.albert.embeddings.word_embeddings.weight
    old = load_tokenizer(checkpoint).get_vocab()
    shared = [(old[piece], index) for piece, index in tokenizer.get_vocab().items() if piece in old]
    assert len(shared) > 20
    for was, now in shared:
        assert same(before[was], after[now])


def test_what_no_checkpoint_can_change_is_refused(checkpoint, corpus, cache, tmp_path, pretrain):
    result = pretrain([*arguments(corpus, cache, tmp_path / "runs"), "--init-from", str(checkpoint)])
    assert result.code == 2 and "fixed by the checkpoint" in result.err and "attention" in result.err
    assert "documents" not in result.out                                    # before any text is read
    result = pretrain(["--data", str(corpus), "--init-from", str(checkpoint), "--set", "hidden_size=128"])
    assert result.code == 2 and "hidden_size is fixed by the checkpoint" in result.err      # whatever --model has
    result = pretrain(["--model", "tiny", "--data", str(corpus), "--init-from", str(tmp_path / "nothing")])
    assert result.code == 2 and "no such folder" in result.err


def test_a_run_goes_on_without_the_checkpoint_it_began_with(checkpoint, corpus, cache, tmp_path, pretrain):
    start = tmp_path / "start"
    shutil.copytree(checkpoint, start)
    continued(start, corpus, cache, tmp_path / "runs", pretrain)
    shutil.rmtree(start)
    run, = (tmp_path / "runs").iterdir()
    result = pretrain(["--resume", str(run), "--tqdm-off"])
    assert result.code == 0, result.err


def test_the_language_is_that_of_the_run(checkpoint, corpus, cache, tmp_path, pretrain):
    """A checkpoint that is no run's has none; what is set counts."""
    _, config, _ = continued(checkpoint, corpus, cache, tmp_path / "a", pretrain, ["language=de", "lower_case=false"])
    assert (config["language"], config["lower_case"], config["strip_accents"]) == ("de", False, True)
    run, = (tmp_path / "a").iterdir()
    _, config, _ = continued(run, corpus, cache, tmp_path / "b", pretrain, ["strip_accents=false"])
    assert (config["language"], config["lower_case"], config["strip_accents"]) == ("de", False, False)
    _, config, _ = continued(run, corpus, cache, tmp_path / "c", pretrain, ["language=en"])
    assert (config["language"], config["lower_case"], config["strip_accents"]) == ("en", False, True)
