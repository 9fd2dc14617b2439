import copy
import math

import pytest
import torch
from einops import rearrange

from albert import AlbertConfig
from albert.attention import KINDS, build_attention
from albert.attention.convolution import ValueConvolution
from albert.attention.linear import log_elu_plus_one
from albert.attention.performer import orthogonal_features
from albert.pretrained import initialize

HEADS, DIM, LANDMARKS = 3, 8, 8


def attention(kind, conv_kernel_size=0, **changes):
    config = AlbertConfig(**dict(
        hidden_size=HEADS * DIM, num_attention_heads=HEADS, attention=kind, num_landmarks=LANDMARKS, num_features=24,
        attention_window=8, block_size=4, blocks_per_row=2, conv_kernel_size=conv_kernel_size, initializer_range=0.5,
        max_position_embeddings=8192) | changes)
    attend = build_attention(config)
    initialize(attend, config)
    return attend.double().eval()


def inputs(batch, tokens, scale=1.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(batch, HEADS, tokens, DIM, generator=generator, dtype=torch.float64) * scale).to(dtype)
            for _ in range(3)]


def exact(query, key, value, mask=None):
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    return scores.softmax(-1) @ value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [0, 5])
def test_padding_and_other_rows_never_matter(kind, width):
    attend = attention(kind, width)
    lengths = [1, LANDMARKS - 1, LANDMARKS, LANDMARKS + 1, 21, 40]
    query, key, value = inputs(len(lengths), 40)
    mask = torch.arange(40) < torch.tensor(lengths)[:, None]
    together = attend(query, key, value, mask)
    spoiled = [torch.where(mask[:, None, :, None], tensor, torch.tensor(1e3, dtype=torch.float64))
               for tensor in (query, key, value)]
    padded_otherwise = attend(*spoiled, mask)
    for row, length in enumerate(lengths):
        alone = attend(*(tensor[row:row + 1, :, :length] for tensor in (query, key, value)), None)
        torch.testing.assert_close(together[row, :, :length], alone[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(padded_otherwise[row, :, :length], alone[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_left_padding_and_holes_give_what_the_tokens_alone_give(kind):
    attend = attention(kind)
    query, key, value = inputs(2, 50)
    mask = torch.rand(2, 50, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[1] = torch.arange(50) >= 20
    together = attend(query, key, value, mask)
    for row in range(2):
        real = mask[row].nonzero()[:, 0]
        alone = attend(*(tensor[row:row + 1, :, real] for tensor in (query, key, value)), None)
        torch.testing.assert_close(together[row][:, real], alone[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("linformer", "performer", "linear")])
@pytest.mark.parametrize("tokens", [1, 2, 3, 20, 60])
def test_of_short_texts_all_of_the_default_budget_see_all(kind, tokens):
    config = AlbertConfig(attention=kind, hidden_size=8 * HEADS, num_attention_heads=HEADS, conv_kernel_size=0)
    query, key, value = inputs(3, tokens)
    mask = torch.arange(tokens) < torch.tensor([tokens, max(tokens - 1, 1), 1])[:, None]
    expected, found = exact(query, key, value, mask), build_attention(config).double()(query, key, value, mask)
    rows = mask[:, None, :, None]
    torch.testing.assert_close(found * rows, expected * rows, rtol=0, atol=1e-9)
    alone = build_attention(config).double()(query, key, value, None)
    torch.testing.assert_close(alone, exact(query, key, value), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences_under_a_mask(kind):
    attend = attention(kind, 3)
    tensors = [tensor.requires_grad_() for tensor in inputs(2, 12, scale=0.5)]
    mask = torch.arange(12) < torch.tensor([[5], [12]])
    assert torch.autograd.gradcheck(lambda *tensors: attend(*tensors, mask), tensors, fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 64, 100, 8192])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_stays_finite(kind, tokens, dtype):
    if tokens > 4096 and (kind in ("softmax", "mra") or dtype == torch.float16 and kind != "nystrom"):
        pytest.skip("slow on CPU")
    attend = attention(kind, 5).to(dtype)
    mask = torch.ones(3, tokens, dtype=torch.bool)
    mask[1, 1:] = False
    mask[2] = False
    for scale in (1.0, 30.0):
        for equal_keys in (False, True):
            query, key, value = inputs(3, tokens, scale, dtype)
            key = key[:, :, :1].expand_as(key) if equal_keys else key
            for chosen in (None, mask):
                assert attend(query, key, value / scale, chosen).isfinite().all()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.01), (torch.bfloat16, 0.1), (torch.float32, 1e-5)])
@pytest.mark.parametrize("tokens", [1, 8, 9, 100, 1001, 8192])
def test_nystrom_in_low_precision_agrees_with_float64(tokens, dtype, tolerance):
    """Also in a row with one token, with large logits, and with all keys equal; the worst of them beside the largest
    output."""
    attend = attention("nystrom", 5).to(dtype)
    reference = copy.deepcopy(attend).double()
    mask = torch.ones(2, tokens, dtype=torch.bool)
    mask[1, 1:] = False
    for scale in (1.0, 8.0):
        for equal_keys in (False, True):
            query, key, value = inputs(2, tokens, scale, dtype)
            key = key[:, :, :1].expand_as(key) if equal_keys else key
            for chosen in (None, mask):
                with torch.no_grad():
                    expected = reference(query.double(), key.double(), value.double() / scale, chosen)
                    error = attend(query, key, value / scale, chosen).double() - expected
                error, expected = (tensor if chosen is None else tensor * mask[:, None, :, None]
                                   for tensor in (error, expected))
                assert error.abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("tokens", [8191, 8192])
def test_nystrom_s_sums_and_products_stay_in_the_range_of_float16(tokens):
    alike = torch.full((1, HEADS, tokens, DIM), 200.0, dtype=torch.float16)
    torch.testing.assert_close(attention("nystrom").half()(alike, alike, alike, None), alike, rtol=2e-3, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_changes_nothing_where_the_inputs_have_its_type(kind):
    attend, tensors = attention(kind).float(), inputs(2, 64, dtype=torch.bfloat16)
    mask = torch.arange(64) < torch.tensor([[64], [40]])
    plain = attend(*tensors, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attend(*tensors, mask), plain)


def test_softmax_is_the_formula():
    query, key, value = inputs(2, 30)
    mask = torch.arange(30) < torch.tensor([[11], [30]])
    torch.testing.assert_close(attention("softmax")(query, key, value, mask), exact(query, key, value, mask))
    torch.testing.assert_close(attention("softmax")(query, key, value, None), exact(query, key, value))


def test_nystrom_is_exact_in_rows_of_no_more_tokens_than_landmarks():
    query, key, value = inputs(3, 40)
    mask = torch.arange(40) < torch.tensor([[LANDMARKS], [3], [40]])
    output = attention("nystrom")(query, key, value, mask)
    expected = exact(query, key, value, mask)
    torch.testing.assert_close(output[0, :, :LANDMARKS], expected[0, :, :LANDMARKS])
    torch.testing.assert_close(output[1, :, :3], expected[1, :, :3])


@pytest.mark.parametrize("pinv_init, batch", [("exact", 3), ("original", 1)])
@pytest.mark.parametrize("width", [None, 5])
def test_nystrom_agrees_with_transformers(pinv_init, batch, width):
    transformers = pytest.importorskip("transformers")
    from transformers.models.nystromformer.modeling_nystromformer import NystromformerSelfAttention

    tokens, size = 5 * LANDMARKS, HEADS * DIM
    theirs = NystromformerSelfAttention(transformers.NystromformerConfig(
        hidden_size=size, num_attention_heads=HEADS, num_landmarks=LANDMARKS, segment_means_seq_len=tokens,
        conv_kernel_size=5)).double().eval()
    theirs.init_option = pinv_init
    theirs.conv_kernel_size = width
    ours = attention("nystrom", width or 0, pinv_init=pinv_init)
    if width:
        ours.convolution.weight.data = theirs.conv.weight.data[:, 0, :, 0]
    hidden = torch.randn(batch, tokens, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    query, key, value = (rearrange(project(hidden), "b t (h d) -> b h t d", h=HEADS)
                         for project in (theirs.query, theirs.key, theirs.value))
    expected = theirs(hidden)[0]
    torch.testing.assert_close(rearrange(ours(query, key, value, None), "b h t d -> b t (h d)"), expected,
                               rtol=0, atol=1e-8)
    all_real = torch.ones(batch, tokens, dtype=torch.bool)
    torch.testing.assert_close(rearrange(ours(query, key, value, all_real), "b h t d -> b t (h d)"), expected,
                               rtol=0, atol=1e-8)


def test_the_original_start_of_the_pseudo_inverse_is_that_of_each_row_alone():
    attend, tensors = attention("nystrom", pinv_init="original"), inputs(3, 40, scale=2.0)
    alone = torch.cat([attend(*(tensor[row:row + 1] for tensor in tensors), None) for row in range(3)])
    torch.testing.assert_close(attend(*tensors, None), alone, rtol=0, atol=1e-9)


def test_nystrom_agrees_with_the_package_nystrom_attention():
    package = pytest.importorskip("nystrom_attention")
    tokens, size = 6 * LANDMARKS, HEADS * DIM
    theirs = package.NystromAttention(size, DIM, HEADS, LANDMARKS, residual_conv_kernel=5).double().eval()
    ours = attention("nystrom", 5, pinv_init="original")
    ours.convolution.weight.data = theirs.res_conv.weight.data[:, 0, :, 0]
    hidden = torch.randn(1, tokens, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    query, key, value = rearrange(theirs.to_qkv(hidden), "b t (n h d) -> n b h t d", n=3, h=HEADS)
    output = theirs.to_out(rearrange(ours(query, key, value, None), "b h t d -> b t (h d)"))
    torch.testing.assert_close(output, theirs(hidden), rtol=0, atol=1e-8)


@pytest.mark.parametrize("batch, tokens, width", [(1, 40, 9), (3, 17, 33), (2, 1, 3)])
def test_the_convolution_is_one_filter_for_each_head(batch, tokens, width):
    convolution = ValueConvolution(AlbertConfig(hidden_size=HEADS * DIM, num_attention_heads=HEADS,
                                                conv_kernel_size=width)).double()
    torch.nn.init.normal_(convolution.weight)
    value = inputs(batch, tokens)[2]
    expected = torch.zeros_like(value)
    for token in range(tokens):
        for offset in range(width):
            source = token + offset - width // 2
            if 0 <= source < tokens:
                expected[:, :, token] += convolution.weight[:, offset, None] * value[:, :, source]
    torch.testing.assert_close(convolution(value), expected)


def test_autocast_keeps_the_pseudo_inverse_in_float32():
    query, key, value = inputs(2, 64, dtype=torch.float32)
    attend = attention("nystrom").float()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), None)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), attend(query, key, value, None), rtol=0.1, atol=0.1)


# -- the other kinds, by their formulas in float64 -----------------------------------------------------------------


def two_rows(tokens=41, short=23, scale=1.0):
    return inputs(2, tokens, scale), torch.arange(tokens) < torch.tensor([[tokens], [short]])


def compare(output, mask, row_by_row):
    """Each row's real tokens with what ``row_by_row(row, length)`` gives for them."""
    for row, length in enumerate(mask.sum(1).tolist()):
        torch.testing.assert_close(output[row, :, :length], row_by_row(row, length), rtol=0, atol=1e-9)


def test_linear_is_the_formula():
    (query, key, value), mask = two_rows(scale=3.0)

    def formula(row, length):
        phi_query, phi_key = (torch.nn.functional.elu(tensor[row, :, :length]) + 1 for tensor in (query, key))
        weights = phi_query @ phi_key.mT
        return weights / weights.sum(-1, keepdim=True) @ value[row, :, :length]

    compare(attention("linear")(query, key, value, mask), mask, formula)


def test_the_gradient_of_linear_s_logarithm_is_finite_at_minus_one():
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    log_elu_plus_one(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([1.0, 1.0, 1 / 3]))


def test_performer_is_the_formula():
    (query, key, value), mask = two_rows()
    attend = attention("performer")

    def features(x):
        x = x / DIM ** 0.25
        return torch.exp(x @ attend.features.mT - x.square().sum(-1, keepdim=True) / 2) / len(attend.features) ** 0.5

    def formula(row, length):
        weights = features(query[row, :, :length]) @ features(key[row, :, :length]).mT
        return weights / weights.sum(-1, keepdim=True) @ value[row, :, :length]

    compare(attend(query, key, value, mask), mask, formula)


def test_the_features_of_performer_are_orthogonal_and_estimate_the_softmax_kernel():
    generator = torch.Generator().manual_seed(0)
    first = orthogonal_features(24, DIM, generator, "cpu")
    for block in first.split(DIM):
        torch.testing.assert_close(block @ block.mT, (block @ block.mT).diagonal().diag(), rtol=0, atol=1e-5)
    many = orthogonal_features(200_000, DIM, generator, "cpu").double()
    x, y = torch.randn(2, 5, DIM, dtype=torch.float64, generator=generator) / 3
    phi_x, phi_y = (torch.exp(z @ many.mT - z.square().sum(-1, keepdim=True) / 2) for z in (x, y))
    torch.testing.assert_close(phi_x @ phi_y.mT / len(many), (x @ y.mT).exp(), rtol=0.02, atol=0)


def test_performer_draws_anew_in_training_and_never_in_evaluation():
    (query, key, value), mask = two_rows()
    attend = attention("performer")
    torch.testing.assert_close(attend(query, key, value, mask), attend(query, key, value, mask), rtol=0, atol=0)
    attend.train()
    torch.manual_seed(3)
    first, second = attend(query, key, value, mask), attend(query, key, value, mask)
    torch.manual_seed(3)
    assert torch.equal(first, attend(query, key, value, mask)) and not torch.equal(first, second)


@pytest.mark.parametrize("kind", ["softmax", "linformer", "local"])
def test_dropout_of_attention_keeps_the_mean_and_acts_in_training_alone(kind):
    attend, tensors = attention(kind, attention_probs_dropout_prob=0.2), [*inputs(1, 12, scale=0.3), None]
    plain = attend(*tensors)
    assert torch.equal(attend(*tensors), plain)
    attend.train()
    torch.manual_seed(0)
    drawn = torch.stack([attend(*tensors) for _ in range(1000)])
    assert (drawn.std(0) > 0).all()
    torch.testing.assert_close(drawn.mean(0), plain, atol=0.1, rtol=0)


def test_linformer_is_the_formula():
    (query, key, value), mask = two_rows()
    attend = attention("linformer")

    def formula(row, length):
        keys, values = (weight[:, :length] @ tensor[row, :, :length] for weight, tensor in (
            (attend.key_projection, key), (attend.value_projection, value)))
        return exact(query[row, :, :length], keys, values)

    compare(attend(query, key, value, mask), mask, formula)


@pytest.mark.parametrize("window", [2, 8, 64])
def test_local_is_softmax_under_a_band(window):
    (query, key, value), mask = two_rows()

    def formula(row, length):
        token = torch.arange(length)
        seen = (token[:, None] - token).abs() <= window // 2
        seen[0] = seen[:, 0] = True
        scores = (query[row, :, :length] @ key[row, :, :length].mT / DIM ** 0.5).masked_fill(~seen, -torch.inf)
        return scores.softmax(-1) @ value[row, :, :length]

    compare(attention("local", attention_window=window)(query, key, value, mask), mask, formula)


def test_mra_is_the_formula():
    (query, key, value), mask = two_rows(tokens=43)
    size, chosen = 4, 3

    def formula(row, length):
        outputs = []
        for head in range(HEADS):
            blocks = [torch.arange(start, min(start + size, length)) for start in range(0, length, size)]
            q, k, v = (tensor[row, head] for tensor in (query, key, value))
            weights = torch.zeros(length, length, dtype=torch.float64)
            for mine in blocks:
                coarse = torch.stack([q[mine].mean(0) @ k[other].mean(0) / DIM ** 0.5 for other in blocks])
                mass = coarse.exp() * torch.tensor([len(other) for other in blocks])
                mass[mine[0] // size] = torch.inf
                best = set(mass.topk(min(chosen, len(blocks))).indices.tolist())
                for number, other in enumerate(blocks):
                    block = (q[mine] @ k[other].mT / DIM ** 0.5).exp() if number in best else coarse[number].exp()
                    weights[mine[:, None], other] = block
            outputs.append(weights / weights.sum(-1, keepdim=True) @ v[:length])
        return torch.stack(outputs)

    compare(attention("mra", block_size=size, blocks_per_row=chosen)(query, key, value, mask), mask, formula)


BUDGETS = {"nystrom": ("num_landmarks", 16, 64, 256), "linformer": ("num_landmarks", 16, 64, 256),
           "performer": ("num_features", 8, 128, 4096), "local": ("attention_window", 16, 128, 512),
           "mra": ("blocks_per_row", 1, 16, 64)}


@pytest.mark.parametrize("kind", BUDGETS)
def test_error_against_softmax_falls_as_the_budget_grows(kind):
    query, key, value = inputs(2, 256, scale=0.5)
    key_name, *budgets = BUDGETS[kind]
    errors = []
    for budget in budgets:
        attend = attention(kind, max_position_embeddings=256, **{key_name: budget})
        if kind == "linformer":                 # its projections are learned: here the means of segments
            means = torch.eye(budget, dtype=torch.float64).repeat_interleave(256 // budget, dim=1) * budget / 256
            attend.key_projection.data = attend.value_projection.data = means
        errors.append((attend(query, key, value, None) - exact(query, key, value)).norm().item())
    assert errors[2] < errors[1] < errors[0]
    assert kind == "performer" or errors[2] < 1e-9
