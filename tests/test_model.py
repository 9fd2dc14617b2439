import random

import pytest
import torch

from albert import (Albert, AlbertConfig, AlbertForMultipleChoice, AlbertForPretraining, AlbertForQuestionAnswering,
                    AlbertForSequenceClassification, AlbertForTokenClassification, ModelError)
from albert.attention import KINDS

SIZES = {
    "base": dict(),
    "large": dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
    "xlarge": dict(hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, intermediate_size=8192),
    "xxlarge": dict(hidden_size=4096, num_attention_heads=64, intermediate_size=16384),
}


def parameters(model_class, **values):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model_class(AlbertConfig(**values)).parameters())


def small(**changes):
    return AlbertConfig(**dict(vocab_size=60, embedding_size=16, hidden_size=24, num_hidden_layers=3,
                               num_attention_heads=3, intermediate_size=40, max_position_embeddings=64,
                               num_landmarks=8, attention_window=8, block_size=4, blocks_per_row=2,
                               initializer_range=0.2) | changes)


@pytest.mark.parametrize("size, count", [
    ("base", 11_813_810), ("large", 17_847_474), ("xlarge", 59_021_490), ("xxlarge", 223_158_450)])
def test_the_released_sizes_have_the_parameters_of_transformers(size, count):
    assert parameters(AlbertForPretraining, **SIZES[size]) == count
    shape = AlbertConfig(**SIZES[size])
    for groups in (1, 3):
        softmax = parameters(AlbertForPretraining, **SIZES[size], num_hidden_groups=groups)
        nystrom = parameters(AlbertForPretraining, **SIZES[size], num_hidden_groups=groups, attention="nystrom")
        assert nystrom - softmax == groups * shape.num_attention_heads * 33


@pytest.mark.parametrize("groups, inner", [(1, 2), (4, 1), (3, 2)])
def test_groups_have_the_parameters_of_transformers(groups, inner):
    transformers = pytest.importorskip("transformers")
    values = dict(num_hidden_groups=groups, inner_group_num=inner)
    with torch.device("meta"):
        theirs = transformers.AlbertForPreTraining(transformers.AlbertConfig(
            hidden_size=768, num_attention_heads=12, intermediate_size=3072, **values))
        ours = AlbertForPretraining(AlbertConfig(**values))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


# Millions of parameters of base in the paper's tables 3 and 4, by (embedding_size, share)
PAPER = {(64, "none"): 87, (128, "none"): 89, (256, "none"): 93, (768, "none"): 108,
         (64, "all"): 10, (128, "all"): 12, (256, "all"): 16, (768, "all"): 31,
         (768, "attention"): 83, (768, "ffn"): 57, (128, "attention"): 64, (128, "ffn"): 38}


@pytest.mark.parametrize("embedding_size, share", PAPER)
def test_embedding_size_and_sharing_have_the_parameters_of_the_paper(embedding_size, share):
    # at 768 the paper has no projection, as in BERT's layout
    model_type = "bert" if embedding_size == 768 else "albert"
    count = parameters(Albert, embedding_size=embedding_size, share=share, model_type=model_type)
    assert abs(count / 1e6 - PAPER[embedding_size, share]) < 1.1  # it does not say whether the pooler (0.6) counts


@pytest.mark.parametrize("share, attention_blocks, ffn_blocks",
                         [("all", 2, 2), ("attention", 2, 6), ("ffn", 6, 2), ("none", 6, 6)])
def test_sharing_decides_which_blocks_a_step_takes(share, attention_blocks, ffn_blocks):
    encoder = Albert(small(num_hidden_layers=6, num_hidden_groups=2, share=share)).encoder
    assert (len(encoder.attention), len(encoder.feed_forward)) == (attention_blocks, ffn_blocks)
    grouped, own = [0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 5]
    assert encoder.layers == list(zip(grouped if attention_blocks == 2 else own, grouped if ffn_blocks == 2 else own))


def batch(rows=5, tokens=40, vocabulary=60):
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1, vocabulary, (rows, tokens), generator=generator)
    token_type_ids = torch.randint(0, 2, (rows, tokens), generator=generator)
    lengths = torch.randint(1, tokens + 1, (rows,), generator=generator)
    lengths[0] = tokens
    return input_ids, token_type_ids, torch.arange(tokens) < lengths[:, None]


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize("model_type, share", [("albert", "all"), ("bert", "none")])
def test_padding_and_other_rows_never_change_an_answer(attention, norm_position, model_type, share):
    model = AlbertForPretraining(small(attention=attention, norm_position=norm_position, model_type=model_type,
                                       share=share, conv_kernel_size=5)).double().eval()
    input_ids, token_type_ids, mask = batch()
    together = model(input_ids, token_type_ids, mask)
    noise = torch.randint_like(input_ids, 1, 60)
    otherwise = model(torch.where(mask, input_ids, noise), token_type_ids, mask.long())
    for row, length in enumerate(mask.sum(1)):
        alone = model(input_ids[row:row + 1, :length], token_type_ids[row:row + 1, :length])
        for output in (together, otherwise):
            torch.testing.assert_close(output.mlm_logits[row, :length], alone.mlm_logits[0], rtol=0, atol=1e-9)
            torch.testing.assert_close(output.sop_logits[row], alone.sop_logits[0], rtol=0, atol=1e-9)


def test_a_row_of_padding_alone_stays_finite_and_so_do_its_gradients():
    for attention in KINDS:
        model = AlbertForPretraining(small(attention=attention))
        input_ids, token_type_ids, mask = batch()
        mask[2] = False
        output = model(input_ids, token_type_ids, mask)
        output.mlm_logits.sum().backward()
        assert output.mlm_logits.isfinite().all()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("changes", [*({"attention": kind} for kind in KINDS), {"norm_position": "pre"}, {"share": "none"},
                                     {"inner_group_num": 2}, {"conv_kernel_size": 3, "attention": "softmax"},
                                     {"model_type": "bert"}, {"sentence_objective": "none"}], ids=str)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_comes_after_the_last_attention_runs_on_the_masked_positions_alone(changes, checkpointing):
    torch.manual_seed(0)
    model = AlbertForPretraining(small(**changes)).double()
    model.albert.encoder.activation_checkpointing = checkpointing
    inputs, labels = batch(), torch.randint(60, (4,))
    positions, rows = torch.tensor([1, 3, 41, 199]), []
    model.albert.encoder.feed_forward[-1].register_forward_hook(lambda module, _, output: rows.append(output.shape[:-1].numel()))

    def gradients(mlm_logits, sop_logits):
        loss = torch.nn.functional.cross_entropy(mlm_logits, labels)
        model.zero_grad()
        (loss if sop_logits is None else loss + sop_logits.square().sum()).backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]

    torch.manual_seed(1)
    everywhere = model(*inputs)
    assert rows[-1] == inputs[0].numel()
    torch.manual_seed(1)
    chosen = model(*inputs, masked_positions=positions)
    assert rows[-1] == len(positions) + len(inputs[0])
    logits = everywhere.mlm_logits.flatten(0, 1)[positions]
    torch.testing.assert_close(chosen.mlm_logits, logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(chosen.sop_logits, everywhere.sop_logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients(*chosen), gradients(logits, everywhere.sop_logits), rtol=0, atol=1e-11)


@pytest.mark.parametrize("model_class", [AlbertForSequenceClassification, AlbertForMultipleChoice])
def test_a_head_of_the_first_token_has_the_last_layer_compute_no_other(model_class):
    model = model_class(small()).eval()
    inputs, rows = batch(), []
    if model_class is AlbertForMultipleChoice:
        inputs = [tensor[:4].unflatten(0, (2, 2)) for tensor in inputs]
    model.albert.encoder.feed_forward[-1].register_forward_hook(lambda module, _, output: rows.append(output.shape[:-1].numel()))
    logits = model(*inputs)
    assert rows == [inputs[0].numel()] * 2 + [inputs[0].shape[:-1].numel()]
    flat = [tensor.flatten(0, -2) for tensor in inputs]
    torch.testing.assert_close(logits, model.classifier(model.albert(*flat)[1]).view_as(logits))


def test_without_a_sentence_objective_there_is_no_sentence_head():
    model = AlbertForPretraining(small(sentence_objective="none"))
    assert model(*batch()).sop_logits is None
    assert not any("pooler" in name or "sentence" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("model_type, rate", [("albert", 0.3), ("bert", 0.0)])
def test_bert_has_no_dropout_before_its_sentence_head(model_type, rate):
    model = AlbertForPretraining(small(model_type=model_type, classifier_dropout_prob=0.3))
    assert model.sentence_head.dropout.p == rate


@pytest.mark.parametrize("model_class", [AlbertForSequenceClassification, AlbertForTokenClassification, AlbertForMultipleChoice])
def test_dropout_acts_after_the_embeddings_and_before_the_classifier(model_class):
    torch.manual_seed(0)
    model = model_class(small(hidden_dropout_prob=0.5, classifier_dropout_prob=0.5)).train()
    seen = []
    for layer in (model.albert.embeddings.projection, model.classifier.linear):
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    model(torch.ones((4, 4, 16) if model_class is AlbertForMultipleChoice else (16, 16), dtype=torch.long))
    assert [float((values == 0).float().mean()) for values in seen] == pytest.approx([0.5, 0.5], abs=0.1)


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_layers_are_those_of_pytorch(norm_position):
    """Also what dropout leaves of them, drawn from the same seed (of a batch of one: of more, it draws in another order)."""
    config = small(norm_position=norm_position, hidden_act="silu", layer_norm_eps=0.1, hidden_dropout_prob=0.3)
    encoder = Albert(config).encoder.double().train()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    layer = torch.nn.TransformerEncoderLayer(24, 3, 40, 0.3, torch.nn.functional.silu, 0.1, batch_first=True,
                                             norm_first=norm_position == "pre").double()
    layer.dropout.p = layer.self_attn.dropout = 0.0                # these two ALBERT does not have, or has apart
    attention, feed_forward = encoder.attention[0], encoder.feed_forward[0]
    for kind in ("weight", "bias"):
        projections = [getattr(part, kind) for part in (attention.query, attention.key, attention.value)]
        getattr(layer.self_attn, f"in_proj_{kind}").data = torch.cat(projections)
        for ours, theirs in ((attention.output, layer.self_attn.out_proj), (attention.norm, layer.norm1),
                             (feed_forward.intermediate, layer.linear1), (feed_forward.output, layer.linear2),
                             (feed_forward.norm, layer.norm2)):
            getattr(theirs, kind).data = getattr(ours, kind).data
    expected = hidden = torch.randn(1, 7, 24, dtype=torch.float64)
    torch.manual_seed(1)
    for _ in range(3):
        expected = layer(expected)
    if norm_position == "pre":
        expected = torch.nn.functional.layer_norm(expected, (24,), encoder.norm.weight, encoder.norm.bias, 0.1)
    torch.manual_seed(1)
    torch.testing.assert_close(encoder(hidden), expected)


@pytest.mark.parametrize("model_class", [Albert, AlbertForPretraining, AlbertForSequenceClassification,
                                         AlbertForTokenClassification, AlbertForQuestionAnswering, AlbertForMultipleChoice])
def test_a_new_model_is_drawn_from_the_initializer_range(model_class):
    model = model_class(small(initializer_range=1.0, conv_kernel_size=9))
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            assert (weight == (0.0 if name.endswith("bias") else 1.0)).all(), name
        elif "convolution" in name:
            assert 0.25 < weight.abs().max() <= 1 / 3 and 0.12 < weight.std() < 0.26, name
        else:
            assert 0.6 < weight.std() < 1.4, name
    assert not model.get_submodule("" if model_class is Albert else "albert").embeddings.word_embeddings.weight[0].any()


def test_the_outputs_have_their_shapes():
    input_ids, token_type_ids, mask = batch()
    config = small(num_labels=4)
    hidden, pooled = Albert(config)(input_ids, token_type_ids, mask)
    assert hidden.shape == (5, 40, 24) and pooled.shape == (5, 24)
    assert AlbertForSequenceClassification(config)(input_ids, token_type_ids, mask).shape == (5, 4)
    assert AlbertForTokenClassification(config)(input_ids, token_type_ids, mask).shape == (5, 40, 4)
    spans = AlbertForQuestionAnswering(config)(input_ids, token_type_ids, mask)
    assert spans.start_logits.shape == spans.end_logits.shape == (5, 40)
    assert AlbertForMultipleChoice(config)(input_ids[None], token_type_ids[None], mask[None]).shape == (1, 5)


@pytest.mark.parametrize("attention", KINDS)
def test_a_mask_of_one_row_is_that_of_all(attention):
    model = Albert(small(attention=attention, num_landmarks=8, block_size=4, attention_window=4)).eval()
    ids, mask = torch.randint(5, 40, (3, 40)), torch.arange(40) < 30
    assert all(torch.equal(*pair) for pair in zip(model(ids, None, mask[None]), model(ids, None, mask.expand(3, -1))))


@pytest.mark.parametrize("positions", [None, torch.tensor([1, 2])])
def test_a_label_without_a_position_is_an_error(positions):
    with pytest.raises(ModelError, match="one for each of masked_positions"):
        AlbertForPretraining(small())(torch.ones(1, 9, dtype=torch.long), None, None, positions, torch.tensor([1, 2, 3]))


def test_more_tokens_than_positions_is_an_error():
    with pytest.raises(ModelError, match="65 tokens.*max_position_embeddings=64"):
        Albert(small())(torch.ones(1, 65, dtype=torch.long))


# -- agreement with Transformers ----------------------------------------------------------------------------------


def random_pair(tmp_path, seed, ours, theirs, **changes):
    """The same random model, here and in Transformers."""
    transformers = pytest.importorskip("transformers")
    choose = random.Random(seed)
    heads = choose.choice([1, 2, 4])
    layers = choose.randint(1, 4)
    values = dict(vocab_size=choose.randint(20, 200), hidden_size=heads * choose.choice([8, 16]),
                  num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=choose.choice([16, 50]),
                  hidden_act=choose.choice(["gelu", "gelu_new", "relu", "tanh"]), max_position_embeddings=512,
                  initializer_range=choose.choice([0.02, 0.1]))
    if theirs.startswith("Albert"):
        values |= dict(embedding_size=choose.choice([8, 16]), num_hidden_groups=choose.randint(1, layers),
                       inner_group_num=choose.randint(1, 2))
    config_class = transformers.AlbertConfig if theirs.startswith("Albert") else transformers.BertConfig
    torch.manual_seed(seed)
    reference = getattr(transformers, theirs)(config_class(**values | changes)).eval()
    with torch.no_grad():
        for parameter in reference.parameters():  # biases and norms too, lest they agree by being trivial
            parameter.add_(torch.randn_like(parameter) * 0.05)
    reference.save_pretrained(tmp_path)
    return ours.from_pretrained(tmp_path), reference


def random_batch(seed, config, padded):
    generator = torch.Generator().manual_seed(seed)
    tokens = random.Random(seed).choice([1, 2, 33, 128, 512])
    input_ids = torch.randint(1, config.vocab_size, (3, tokens), generator=generator)
    token_type_ids = torch.randint(0, 2, (3, tokens), generator=generator)
    if not padded:
        return input_ids, token_type_ids, None
    lengths = torch.randint(1, tokens + 1, (3, 1), generator=generator)
    mask = torch.arange(tokens) < lengths
    return input_ids * mask, token_type_ids, mask.long()


def outputs_of(ours, reference, inputs):
    """Pairs of tensors that must agree: all that the two models return."""
    input_ids, token_type_ids, mask = inputs
    mine = ours(input_ids, token_type_ids, mask)
    theirs = reference(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=mask).to_tuple()
    mine = mine if isinstance(mine, tuple) else (mine,)
    return [(a, b) for a, b in zip(mine, theirs, strict=True) if a is not None]


def real_tokens(output, mask):
    if mask is None or output.ndim < 2 or output.shape[:2] != mask.shape:
        return output
    return output[mask.bool()]


CLASSES = [(Albert, "Model"), (AlbertForPretraining, "ForPreTraining"),
           (AlbertForSequenceClassification, "ForSequenceClassification"),
           (AlbertForTokenClassification, "ForTokenClassification"),
           (AlbertForQuestionAnswering, "ForQuestionAnswering")]


@pytest.mark.parametrize("family", ["Albert", "Bert"])
@pytest.mark.parametrize("ours, suffix", CLASSES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_outputs_agree_with_transformers(tmp_path, family, ours, suffix, seed, dtype, tolerance):
    model, reference = random_pair(tmp_path, seed, ours, family + suffix)
    model, reference = model.to(dtype), reference.to(dtype)
    inputs = random_batch(seed, model.config, padded=seed % 2 == 0)
    with torch.no_grad():
        for mine, theirs in outputs_of(model, reference, inputs):
            mine, theirs = real_tokens(mine, inputs[2]), real_tokens(theirs, inputs[2])
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
            assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_groups_of_several_layers_agree_with_transformers(tmp_path):
    model, reference = random_pair(tmp_path, 0, Albert, "AlbertModel", num_hidden_layers=4, num_hidden_groups=2,
                                   inner_group_num=2)
    with torch.no_grad():
        for mine, theirs in outputs_of(model, reference, random_batch(0, model.config, padded=False)):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["Albert", "Bert"])
@pytest.mark.parametrize("seed", range(2))
def test_multiple_choice_agrees_with_transformers(tmp_path, family, seed):
    model, reference = random_pair(tmp_path, seed, AlbertForMultipleChoice, family + "ForMultipleChoice")
    inputs = [None if tensor is None else torch.stack([tensor, tensor.flip(0)], dim=1)
              for tensor in random_batch(seed, model.config, padded=seed == 0)]
    with torch.no_grad():
        (mine, theirs), = outputs_of(model, reference, inputs)
    assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("family", ["Albert", "Bert"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_gradients_agree_with_transformers(tmp_path, family, seed, dtype, tolerance):
    model, reference = random_pair(tmp_path, seed, AlbertForPretraining, family + "ForPreTraining")
    model, reference = model.to(dtype), reference.to(dtype)
    inputs = random_batch(seed, model.config, padded=seed % 2 == 0)
    losses = [0.0, 0.0]
    generator = torch.Generator().manual_seed(seed)
    for pair in outputs_of(model, reference, inputs):
        weights = real_tokens(torch.randn(pair[0].shape, generator=generator, dtype=torch.float64), inputs[2]).to(dtype)
        losses = [loss + (real_tokens(output, inputs[2]) * weights).mean() for loss, output in zip(losses, pair)]
    for loss in losses:
        loss.backward()
    reference.save_pretrained(tmp_path / "names")
    gradients = dict(reference.named_parameters())
    for parameter in gradients.values():  # carry the gradients over by saving and loading them as a model
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    reference.tie_weights()
    reference.save_pretrained(tmp_path / "gradients")
    expected = AlbertForPretraining.from_pretrained(tmp_path / "gradients").state_dict()
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert (gradient - expected[name]).abs().max() <= tolerance * largest, name
