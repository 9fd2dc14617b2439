from types import SimpleNamespace

import pytest

from hps import HPS, SettingError, override


def copy(task, model):
    return SimpleNamespace(**vars(HPS[task, model]))


def test_merge_goes_from_general_to_specific():
    base, tiny, bert = HPS["pretrain", "base"], HPS["pretrain", "tiny"], HPS["pretrain", "bert-base"]
    assert (base.hidden_size, base.attention, base.optimizer, base.learning_rate) == (768, "nystrom", "lamb", 0.00176)
    assert (base.batch_size, base.max_steps, base.warmup_steps) == (4096, 125_000, 3125)
    assert tiny.hidden_size != 768 and tiny.clip_norm == base.clip_norm
    assert (bert.share, bert.sentence_objective, bert.embedding_size) == ("none", "nsp", 768)


def test_unknown_pair_lists_what_there_is():
    with pytest.raises(SettingError, match="--model huge: there are tiny, .*bert-large"):
        HPS["pretrain", "huge"]


@pytest.mark.parametrize("text, value", [
    ("learning_rate=3e-4", 3e-4), ("learning_rate=1", 1.0), ("batch_size=8", 8), ("optimizer=adamw", "adamw"),
    ("whole_words=false", False), ("conv_kernel_size=9", 9),
])
def test_override_parses_by_the_present_type(text, value):
    hps = copy("pretrain", "base")
    override(hps, [text])
    assert getattr(hps, text.partition("=")[0]) == value
    assert type(getattr(hps, text.partition("=")[0])) is type(value)


@pytest.mark.parametrize("text, message", [
    ("learning_rat=1", "nearest is learning_rate"), ("batch_size=1.5", "whole number"), ("batch_size", "key=value"),
    ("whole_words=yes", "true or false"), ("learning_rate=fast", "a number"), ("learning_rate=nan", "a number"),
    ("learning_rate=1e999", "a number"), ("max_steps=1e999", "whole number"), (f"seed={10 ** 23}", "whole number"),
    (f"mask_prob={10 ** 400}", "a number"),
])
def test_override_refuses_in_one_line(text, message):
    with pytest.raises(SettingError, match=message):
        override(copy("pretrain", "base"), [text])
