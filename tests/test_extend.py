import pytest
import torch

from albert import Albert, AlbertConfig, AlbertForPretraining, ModelError
from albert.extend import extend_positions, replace_vocabulary, switch_attention

INPUTS = torch.randint(1, 50, (2, 30), generator=torch.Generator().manual_seed(0))


def build(model_class=AlbertForPretraining, **changes):
    return model_class(AlbertConfig(**dict(
        vocab_size=50, embedding_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=32, initializer_range=0.3) | changes)).eval()


def reload(model, folder):
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder)


@pytest.mark.parametrize("model_class", [Albert, AlbertForPretraining])
def test_more_positions_leave_short_rows_as_they_were(tmp_path, model_class):
    model = build(model_class)
    before = model(INPUTS)
    assert extend_positions(model, 80) == "positions extended from 32 to 80, the new ones repeating the old"
    table = model.get_submodule("embeddings" if model_class is Albert else "albert.embeddings").position_embeddings
    assert torch.equal(table.weight[32:64], table.weight[:32]) and table.weight.requires_grad
    for loaded in (model, reload(model, tmp_path)):
        assert all(torch.equal(one, other) for one, other in zip(before, loaded(INPUTS)))
        loaded(INPUTS.repeat(1, 2))
    with pytest.raises(ModelError, match="max_position_embeddings=40: the checkpoint has 80"):
        extend_positions(model, 40)


def test_an_option_that_is_none_of_attention_is_refused():
    with pytest.raises(ModelError, match="layer_norm_eps is no option of attention; there are conv_kernel_size"):
        switch_attention(build(), "softmax", layer_norm_eps=0.5)


def test_a_new_convolution_leaves_the_output_unchanged_at_the_start(tmp_path):
    model = build()
    before = model(INPUTS).mlm_logits
    assert switch_attention(model, "nystrom") == (
        "attention softmax -> nystrom, conv_kernel_size 0 -> 33, starting at zero")
    assert model.config.attention == "nystrom" and model.config.conv_kernel_size == 33
    # rows of no more tokens than the 64 landmarks are exact in both
    torch.testing.assert_close(model(INPUTS).mlm_logits, before)
    again = reload(model, tmp_path)
    torch.testing.assert_close(again(INPUTS).mlm_logits, before)
    again(INPUTS).mlm_logits.sum().backward()
    assert again.albert.encoder.attention[0].attend.convolution.weight.grad.any()


def test_linformer_keeps_its_projections_and_adds_positions(tmp_path):
    model = build(attention="linformer", num_landmarks=8)
    before = model(INPUTS).mlm_logits
    switch_attention(model, "linformer", num_landmarks=8)
    extend_positions(model, 80)
    for loaded in (model, reload(model, tmp_path)):
        torch.testing.assert_close(loaded(INPUTS).mlm_logits, before)
        loaded(INPUTS.repeat(1, 2))


def test_a_new_convolution_leaves_the_projections_of_linformer(tmp_path):
    model = build(attention="linformer", num_landmarks=8)
    before = model(INPUTS).mlm_logits
    switch_attention(model, "linformer", conv_kernel_size=5)
    torch.testing.assert_close(model(INPUTS).mlm_logits, before)


def test_a_convolution_of_the_same_width_is_kept():
    model = build(attention="nystrom", conv_kernel_size=5)
    before = model(INPUTS).mlm_logits
    message = switch_attention(model, "softmax", conv_kernel_size=5)
    assert message == "attention nystrom -> softmax, conv_kernel_size 5 -> 5"
    torch.testing.assert_close(model(INPUTS).mlm_logits, before)
    switch_attention(model, "softmax")
    torch.testing.assert_close(model(INPUTS).mlm_logits, before)
    switch_attention(model, "nystrom", num_landmarks=8, conv_kernel_size=0)
    assert model.config.num_landmarks == model.albert.encoder.attention[0].attend.landmarks == 8
    with pytest.raises(ModelError, match="attention='flash'"):
        switch_attention(model, "flash")


def test_shared_pieces_keep_their_embeddings(tmp_path):
    model = build()
    words, bias = model.albert.embeddings.word_embeddings.weight.clone(), model.mlm_head.bias
    bias.data.normal_()
    old_bias = bias.detach().clone()
    message = replace_vocabulary(model, 70, {0: 0, 5: 40, 69: 3})
    assert message == "vocabulary exchanged: 3 of 70 embeddings kept, 67 initialised"
    for loaded in (model, reload(model, tmp_path)):
        table = loaded.albert.embeddings.word_embeddings.weight
        assert table.shape == (70, 8) and torch.equal(table[[0, 5, 69]], words[[0, 40, 3]])
        assert torch.equal(loaded.mlm_head.bias[[5, 69]], old_bias[[40, 3]]) and not loaded.mlm_head.bias[6:69].any()
        assert 0.2 < table[6:69].std() < 0.4
        assert loaded(INPUTS).mlm_logits.shape == (2, 30, 70)
    with pytest.raises(ModelError, match="token 70 is outside a vocabulary of 70"):
        replace_vocabulary(model, 70, {70: 1})
