"""The fused functions of training in bf16, and the loss over the vocabulary in pieces, against the plain formulas."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F

from albert import AlbertConfig, AlbertForPretraining
from albert.heads import DecodedCrossEntropy
from trainer.fused import _product, dropout, fuse, gelu_new
from trainer.pretraining import Pretraining

CONFIG = dict(vocab_size=90, embedding_size=16, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
              intermediate_size=64, max_position_embeddings=64)


def model_of(**changes):
    torch.manual_seed(0)
    return AlbertForPretraining(AlbertConfig(**CONFIG | dict(initializer_range=0.05, classifier_dropout_prob=0.0) | changes))


def batch():
    draw = torch.Generator().manual_seed(1)
    ids, lengths = torch.randint(5, 90, (6, 40), generator=draw), torch.tensor([40, 33, 24, 17, 9, 3])
    mask = torch.arange(40) < lengths[:, None]
    return {"input_ids": ids * mask, "token_type_ids": torch.zeros_like(ids), "attention_mask": mask,
            "masked_positions": torch.tensor([1, 7, 41, 82, 121, 163, 201]), "mlm_labels": torch.arange(5, 12),
            "sentence_labels": torch.tensor([0, 1, 0, 1, -100, 1])}


def gradients(model, dtype=torch.bfloat16):
    model.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        sums = Pretraining.sums(None, model, batch())
        loss = sums["mlm_loss"] + sums["sentence_loss"]
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def error(found, exact):
    """Of all gradients together, as a share of their norm."""
    assert found.keys() == exact.keys()
    difference = sum(float((found[name] - exact[name]).square().sum()) for name in exact)
    return math.sqrt(difference / sum(float(grad.square().sum()) for grad in exact.values()))


@pytest.mark.parametrize("changes", [
    dict(), dict(hidden_act="gelu"), dict(norm_position="pre"), dict(share="none"), dict(num_hidden_groups=2),
    dict(conv_kernel_size=5), dict(attention="nystrom", num_landmarks=8), dict(attention="local", attention_window=8)])
def test_gradients_are_no_farther_from_those_of_float32_than_the_plain_path_in_bf16(changes):
    plain = model_of(**changes)
    fused = copy.deepcopy(plain)
    fuse(fused, torch.bfloat16)
    loss, exact = gradients(plain, torch.float32)
    plain_loss, plainly = gradients(plain)
    fused_loss, found = gradients(fused)
    assert fused_loss == pytest.approx(loss, rel=max(3 * abs(plain_loss / loss - 1), 5e-3))
    assert all(grad.dtype == torch.float32 for grad in found.values())
    assert error(found, exact) < 1.25 * error(plainly, exact) < 0.1


def test_an_update_of_the_weights_is_seen_and_a_frozen_layer_is_left_alone():
    plain = model_of()
    fused = copy.deepcopy(plain)
    fuse(fused, torch.bfloat16)
    before, _ = gradients(fused)
    for model in (plain, fused):
        optimizer, draw = torch.optim.AdamW(model.albert.encoder.parameters(), lr=0.3, fused=True), torch.Generator()
        draw.manual_seed(0)
        for p in model.albert.encoder.parameters():
            p.grad = torch.randn(p.shape, generator=draw)
        optimizer.step()
        model.albert.encoder.feed_forward[0].requires_grad_(False)
    (plain_loss, exact), (loss, found) = gradients(plain), gradients(fused)
    assert loss == pytest.approx(plain_loss, rel=2e-3) and abs(before - plain_loss) > 0.01 * plain_loss
    assert found.keys() == exact.keys() and not any("feed_forward" in name for name in found)


def test_two_forward_passes_before_a_backward_pass_and_activation_checkpointing_change_nothing():
    model = model_of()
    fuse(model, torch.bfloat16)
    _, once = gradients(model)
    once = {name: grad.clone() for name, grad in once.items()}
    model.albert.encoder.activation_checkpointing = True
    _, again = gradients(model)
    assert all(torch.equal(once[name], again[name]) for name in once)
    model.albert.encoder.activation_checkpointing = False
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        losses = [sum(Pretraining.sums(None, model, batch())[f"{part}_loss"] for part in ("mlm", "sentence"))
                  for _ in range(2)]
    sum(losses).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert error(found, {name: 2 * grad for name, grad in once.items()}) < 0.02


def test_padding_and_other_rows_change_no_answer():
    model, inputs = model_of().eval(), batch()
    fuse(model, torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        together, _ = model.albert(inputs["input_ids"], inputs["token_type_ids"], inputs["attention_mask"])
        for row, length in enumerate(inputs["attention_mask"].sum(-1).tolist()):
            alone, _ = model.albert(inputs["input_ids"][row:row + 1, :length])
            torch.testing.assert_close(together[row, :length].float(), alone[0].float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_that_share_evenly_and_keeps_the_mean(dtype, rate):
    torch.manual_seed(0)
    inputs = torch.ones(301, 7, 101, dtype=dtype).transpose(0, 2).requires_grad_()
    outputs = dropout(inputs, rate)
    outputs.sum().backward()
    assert torch.equal(inputs.grad, outputs) and outputs.dtype == dtype and outputs.stride() == inputs.stride()
    torch.testing.assert_close(outputs.unique(), torch.tensor([0, 1 / (1 - rate)], dtype=dtype), rtol=1e-4, atol=0)
    dropped = (outputs == 0).float()
    spread = math.sqrt(rate * (1 - rate))
    for axes in ((0, 1, 2), (0, 1), (0, 2), (1, 2)):
        count = math.prod(dropped.shape[axis] for axis in axes)
        assert (dropped.mean(axes) - rate).abs().max() < 5 * spread / math.sqrt(count)
    deviations = (dropped - rate).flatten()
    for lag in range(1, 5):                                              # the numbers of one draw are independent
        assert abs(float((deviations[lag:] * deviations[:-lag]).mean())) < 5 * spread ** 2 / math.sqrt(len(deviations))


@pytest.mark.parametrize("rate", [0.0, 1e-9])
def test_dropout_of_nothing(rate):
    inputs = torch.randn(5, 3)
    assert torch.equal(dropout(inputs, rate), inputs)


def test_dropout_is_drawn_anew_from_the_seed_and_in_training_alone():
    model, inputs = model_of(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3), batch()
    fuse(model, torch.bfloat16)

    def outputs(seed):
        torch.manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16):
            return model.albert(inputs["input_ids"], inputs["token_type_ids"], inputs["attention_mask"])[0]

    assert torch.equal(outputs(0), outputs(0)) and not torch.equal(outputs(0), outputs(1))
    model.eval()
    assert torch.equal(outputs(0), outputs(1))


def test_gelu_and_its_derivative():
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64, requires_grad=True)
    value = F.gelu(x, approximate="tanh")
    slope, = torch.autograd.grad(value.sum(), x)
    found = gelu_new(x.detach().clone())
    torch.testing.assert_close(found[0], value.detach(), rtol=0, atol=1e-14)
    torch.testing.assert_close(found[1], slope, rtol=0, atol=1e-13)


@pytest.mark.parametrize("rows, columns", [(1, 5), (1023, 768), (1024, 768), (768, 1025), (3000, 700)])
def test_a_product_in_parts(rows, columns):
    left, right = torch.randn(rows, 16), torch.randn(16, columns)
    torch.testing.assert_close(_product(left, right), left @ right)


@pytest.mark.parametrize("piece", [1, 100, 300, 2 ** 19])
def test_the_loss_in_pieces_is_the_cross_entropy(piece):
    draw = torch.Generator().manual_seed(0)
    inputs, weight, bias = (torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True)
                            for shape in ((150, 8), (90, 8), (90,)))
    labels = torch.randint(0, 90, (150,), generator=draw)
    logits = F.linear(inputs, weight, bias)
    expected = F.cross_entropy(logits, labels, reduction="sum")
    exact = torch.autograd.grad(expected / 7, (inputs, weight, bias))
    loss, correct = DecodedCrossEntropy.apply(inputs, weight, bias, labels, piece)
    torch.testing.assert_close(loss, expected)
    assert correct == (logits.argmax(-1) == labels).sum()
    for found, grad in zip(torch.autograd.grad(loss / 7, (inputs, weight, bias)), exact):
        torch.testing.assert_close(found, grad)
    with torch.no_grad():
        torch.testing.assert_close(DecodedCrossEntropy.apply(inputs, weight, bias, labels, piece)[0], expected)


def test_no_gradient_is_formed_where_none_is_asked_for(monkeypatch):
    asked, forward = [], DecodedCrossEntropy.forward
    monkeypatch.setattr(DecodedCrossEntropy, "forward", staticmethod(
        lambda ctx, *args: asked.append(any(ctx.needs_input_grad)) or forward(ctx, *args)))
    model = model_of()
    words, labels = model.albert.embeddings.word_embeddings.weight, torch.arange(5)
    trained, _ = model.mlm_head.loss(torch.ones(5, 32), words, labels)
    with torch.no_grad():
        evaluated, _ = model.mlm_head.loss(torch.ones(5, 32), words, labels)
    assert asked == [True, False] and torch.equal(trained, evaluated)


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 300])
def test_filling_up_the_rows_changes_no_loss_and_no_gradient(tokens):
    model = model_of().double()
    words, parameters = model.albert.embeddings.word_embeddings.weight, list(model.mlm_head.parameters())
    hidden = torch.randn(tokens, 32, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, len(words), (tokens,))
    loss, _ = model.mlm_head.loss(hidden, words, labels)
    expected = F.cross_entropy(model.mlm_head(hidden, words), labels, reduction="sum")
    torch.testing.assert_close(loss, expected)
    inputs = [hidden, words, *parameters]
    for found, exact in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(found, exact)


def test_the_loss_of_no_masked_token_is_zero():
    model = model_of()
    hidden = torch.zeros(0, 32, requires_grad=True)
    loss, correct = model.mlm_head.loss(hidden, model.albert.embeddings.word_embeddings.weight,
                                        torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss == correct == 0


def test_without_dropout_float32_is_left_as_it_is():
    plain = model_of(conv_kernel_size=5)
    fused = copy.deepcopy(plain)
    fuse(fused, torch.float32)
    (loss, exact), (fused_loss, found) = (gradients(model, torch.float32) for model in (plain, fused))
    assert fused_loss == loss and all(torch.equal(found[name], exact[name]) for name in exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dropout_of_attention_leaves_the_mean_and_sees_no_padding(dtype):
    model, mask = model_of(attention_probs_dropout_prob=0.2), torch.arange(12) < 9
    fuse(model, dtype)
    attention = model.albert.encoder.attention[0].attend
    draw = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 4, 12, 8, generator=draw).to(dtype)
    mean = sum(attention(query, key, value, mask[None]).float() for _ in range(2000)) / 2000
    expected = F.scaled_dot_product_attention(query, key, value, mask[None, None, None]).float()
    torch.testing.assert_close(mean, expected, atol=0.06, rtol=0)
    outputs = []
    for padding in (0, 50):
        key[:, :, 9:], value[:, :, 9:] = padding, padding
        torch.manual_seed(0)
        outputs.append(attention(query, key, value, mask[None]))
    assert torch.equal(*outputs)
