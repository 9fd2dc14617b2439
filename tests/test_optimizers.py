from types import SimpleNamespace

import pytest
import torch

from albert import AlbertConfig, AlbertForPretraining
from hps import HPS
from trainer.errors import RunError
from trainer.optimizers import LAMB, Muon, build_optimizers, schedule


def reference_lamb(weight, grads, lr, beta1, beta2, eps, decay):
    """Algorithm 2 of You et al. 2020 in float64, one tensor."""
    x = weight.double()
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    for t, gradient in enumerate(grads, 1):
        g = gradient.double()
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        r = m / (1 - beta1 ** t) / ((v / (1 - beta2 ** t)).sqrt() + eps)
        u = r + decay * x
        x = x - lr * x.norm() / u.norm() * u
    return x


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_lamb_follows_algorithm_2(decay):
    torch.manual_seed(0)
    weights = [torch.randn(7, 5), torch.randn(3)]
    grads = [[torch.randn_like(w) for w in weights] for _ in range(6)]
    params = [torch.nn.Parameter(w.clone()) for w in weights]
    optimizer = LAMB(params, lr=0.02, weight_decay=decay)
    for step in grads:
        for p, g in zip(params, step):
            p.grad = g.clone()
        optimizer.step()
    for number, (p, w) in enumerate(zip(params, weights)):
        expected = reference_lamb(w, [step[number] for step in grads], 0.02, 0.9, 0.999, 1e-6, decay)
        torch.testing.assert_close(p.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_lamb_adapts_matrices_alone_whatever_the_decay(decay):
    model = AlbertForPretraining(AlbertConfig(vocab_size=20, embedding_size=8, hidden_size=8, num_attention_heads=2,
                                              intermediate_size=16, num_hidden_layers=1))
    hps = SimpleNamespace(**vars(HPS["pretrain", "base"]) | dict(weight_decay=decay))
    optimizer, = build_optimizers(model, hps)
    assert [(group["adapt"], {p.ndim > 1 for p in group["params"]}) for group in optimizer.param_groups] == [
        (True, {True}), (False, {False})]


def test_lamb_decays_what_it_does_not_adapt():
    p = torch.nn.Parameter(torch.ones(4))
    p.grad = torch.zeros(4)
    LAMB([p], lr=0.1, weight_decay=0.5, adapt=False).step()
    torch.testing.assert_close(p.detach(), torch.full((4,), 0.95))


def test_lamb_moves_a_weight_that_is_zero():
    p = torch.nn.Parameter(torch.zeros(4, 4))
    p.grad = torch.ones(4, 4)
    LAMB([p], lr=0.1).step()
    torch.testing.assert_close(p.detach(), torch.full((4, 4), -0.1))


def test_lamb_leaves_weights_without_a_gradient_or_with_one_of_zeros():
    weights = [torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2)]
    weights[0].grad = torch.zeros(3, 3)
    LAMB([{"params": weights[:1]}, {"params": weights[1:]}], lr=0.1, weight_decay=0.0).step()
    assert all((weight == 1).all() for weight in weights)


def small_model():
    return AlbertForPretraining(AlbertConfig.from_dict(vars(HPS["pretrain", "tiny"]) | dict(vocab_size=100)))


@pytest.mark.parametrize("kind", ["lamb", "adamw", "muon"])
def test_biases_and_norms_are_not_decayed_and_nothing_is_left_out(kind):
    model = small_model()
    optimizers = build_optimizers(model, SimpleNamespace(**vars(HPS["pretrain", "tiny"]) | dict(optimizer=kind)))
    names = {id(p): name for name, p in model.named_parameters()}
    seen = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                seen.append(names[id(p)])
                small = names[id(p)].endswith("bias") or "norm" in names[id(p)]
                assert bool(group["weight_decay"]) != small, names[id(p)]
    assert sorted(seen) == sorted(names.values())


@pytest.mark.parametrize("kind", ["lamb", "adamw", "muon"])
def test_rates_and_moments_are_those_of_the_run(kind):
    changes = dict(optimizer=kind, muon_learning_rate=0.05, weight_decay=0.3, adam_beta1=0.7, adam_beta2=0.8, adam_eps=0.1)
    hps = SimpleNamespace(**vars(HPS["pretrain", "tiny"]) | changes)
    *muon, adam = build_optimizers(small_model(), hps)
    assert {group["weight_decay"] for optimizer in (*muon, adam) for group in optimizer.param_groups} == {0.0, 0.3}
    assert {(group["lr"], group["betas"], group["eps"]) for group in adam.param_groups} == {
        (hps.learning_rate, (0.7, 0.8), 0.1)}
    assert [group["lr"] for optimizer in muon for group in optimizer.param_groups] == [0.05] * (kind == "muon")


def test_muon_takes_the_linear_layers_but_the_last():
    model = small_model()
    muon, _ = build_optimizers(model, HPS["pretrain", "tiny"])
    albert, layer = model.albert, [*model.albert.encoder.attention, *model.albert.encoder.feed_forward]
    matrices = [p for block in layer for name, p in block.named_parameters() if p.ndim == 2 and "convolution" not in name]
    matrices += [albert.embeddings.projection.weight, albert.pooler.weight, model.mlm_head.dense.weight]
    assert {id(p) for group in muon.param_groups for p in group["params"]} == set(map(id, matrices))
    assert len(matrices) == 9


@pytest.mark.parametrize("native, tolerance", [(True, 0), (False, 1e-3)])
def test_muon_is_that_of_pytorch_in_bf16_and_near_it_in_float32(native, tolerance, monkeypatch):
    monkeypatch.setattr("trainer.optimizers.multiplies_bf16", lambda device: native)
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in [(12, 12), (8, 24), (24, 8)]]
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in start] for _ in range(2))
    settings = dict(lr=0.02, weight_decay=0.1)
    optimizers = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(3):
        for pair in zip(ours, theirs):
            pair[0].grad = torch.randn(pair[0].shape, generator=generator)
            pair[1].grad = pair[0].grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


def test_muon_leaves_a_weight_without_a_gradient_and_survives_one_of_zeros():
    weights = [torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2)]
    weights[0].grad = torch.zeros(3, 4)
    Muon(weights, lr=0.1, weight_decay=0.5).step()
    assert (weights[0] == 0.95).all() and (weights[1] == 1).all()


def test_unknown_optimizer():
    with pytest.raises(RunError, match="lamb, adamw and muon"):
        build_optimizers(small_model(), SimpleNamespace(**vars(HPS["pretrain", "tiny"]) | dict(optimizer="sgd")))


def test_schedule_without_warm_up_begins_at_the_whole_rate():
    assert [schedule(step, 0, 4) for step in range(1, 5)] == [1.0, 0.75, 0.5, 0.25]


def test_schedule_rises_and_falls_linearly():
    shares = [schedule(step, 4, 10) for step in range(1, 11)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares[4:] == pytest.approx([6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])
