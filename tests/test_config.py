import pytest

from albert import AlbertConfig, ModelError


def test_round_trip_through_a_mapping_that_carries_other_keys():
    config = AlbertConfig(hidden_size=64, num_attention_heads=4, attention="nystrom", id2label={0: "no", 1: "yes"})
    mapping = config.to_dict() | {"learning_rate": 1e-3, "down_scale_factor": 1}
    assert AlbertConfig.from_dict(mapping) == config


def test_names_of_labels_are_text():
    assert AlbertConfig(id2label={"0": None, "1": 7, "2": "yes"}).id2label == {0: "None", 1: "7", 2: "yes"}


@pytest.mark.parametrize("attention, width", [("softmax", 0), ("nystrom", 33)])
def test_the_default_convolution_depends_on_the_attention(attention, width):
    assert AlbertConfig(attention=attention).conv_kernel_size == width
    assert AlbertConfig(attention=attention, conv_kernel_size=9).conv_kernel_size == 9


def test_a_mapping_in_the_hugging_face_layout_means_softmax_post_norm():
    albert = AlbertConfig.from_dict(dict(embedding_size=16, hidden_size=32, num_attention_heads=2))
    assert (albert.model_type, albert.attention, albert.norm_position, albert.share) == (
        "albert", "softmax", "post", "all")
    bert = AlbertConfig.from_dict(dict(model_type="bert", hidden_size=32, num_attention_heads=2))
    assert (bert.embedding_size, bert.share, bert.hidden_act, bert.classifier_dropout_prob) == (32, "none", "gelu", 0.1)
    assert not bert.projects_embeddings and albert.projects_embeddings


@pytest.mark.parametrize("key, value", [
    ("hidden_size", 770), ("hidden_size", "768"), ("num_hidden_groups", 13), ("conv_kernel_size", 4),
    ("share", "some"), ("norm_position", "middle"), ("hidden_act", "swish9"), ("pinv_init", "none"),
    ("model_type", "roberta"), ("hidden_dropout_prob", 1.0), ("hidden_dropout_prob", -0.1), ("num_landmarks", 0),
    ("num_attention_heads", 0), ("vocab_size", 0), ("pad_token_id", 30000), ("initializer_range", "0.02"),
    ("sentence_objective", "nli"), ("num_hidden_layers", True), ("problem_type", "ranking"), ("hidden_size", None), ("num_labels", None),
])
def test_a_value_that_makes_no_model_is_named(key, value):
    with pytest.raises(ModelError, match=f"{key}.*{value}") as caught:
        AlbertConfig(**{key: value})
    assert "\n" not in str(caught.value)


def test_an_unknown_attention_is_named_with_what_there_is():
    from albert.attention import build_attention

    with pytest.raises(ModelError, match="flash.*softmax.*nystrom"):
        build_attention(AlbertConfig(attention="flash"))


def test_every_kind_of_attention_can_be_chosen():
    from albert.attention import KINDS
    from albert.config import CHOICES

    assert CHOICES["attention"] == tuple(KINDS)
