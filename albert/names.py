"""Names on disk: those of 🤗 Transformers wherever it can express the configuration."""

import re

from albert.config import AlbertConfig

# module here → module in Transformers; {n} counts layers, as {group} and {inner} together do in ALBERT
_SHARED_NAMES = {
    "embeddings.word_embeddings": "embeddings.word_embeddings",
    "embeddings.position_embeddings": "embeddings.position_embeddings",
    "embeddings.token_type_embeddings": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "classifier.linear": "classifier",
    "span_head.linear": "qa_outputs",
}
_ALBERT_LAYER = "encoder.albert_layer_groups.{group}.albert_layers.{inner}"
_BERT_LAYER = "encoder.layer.{n}"
NAMES = {
    "albert": _SHARED_NAMES | {
        "embeddings.projection": "encoder.embedding_hidden_mapping_in",
        "encoder.attention.{n}.query": f"{_ALBERT_LAYER}.attention.query",
        "encoder.attention.{n}.key": f"{_ALBERT_LAYER}.attention.key",
        "encoder.attention.{n}.value": f"{_ALBERT_LAYER}.attention.value",
        "encoder.attention.{n}.output": f"{_ALBERT_LAYER}.attention.dense",
        "encoder.attention.{n}.norm": f"{_ALBERT_LAYER}.attention.LayerNorm",
        "encoder.feed_forward.{n}.intermediate": f"{_ALBERT_LAYER}.ffn",
        "encoder.feed_forward.{n}.output": f"{_ALBERT_LAYER}.ffn_output",
        "encoder.feed_forward.{n}.norm": f"{_ALBERT_LAYER}.full_layer_layer_norm",
        "pooler": "pooler",
        "mlm_head": "predictions",
        "mlm_head.dense": "predictions.dense",
        "mlm_head.norm": "predictions.LayerNorm",
        "sentence_head.linear": "sop_classifier.classifier",
    },
    "bert": _SHARED_NAMES | {
        "encoder.attention.{n}.query": f"{_BERT_LAYER}.attention.self.query",
        "encoder.attention.{n}.key": f"{_BERT_LAYER}.attention.self.key",
        "encoder.attention.{n}.value": f"{_BERT_LAYER}.attention.self.value",
        "encoder.attention.{n}.output": f"{_BERT_LAYER}.attention.output.dense",
        "encoder.attention.{n}.norm": f"{_BERT_LAYER}.attention.output.LayerNorm",
        "encoder.feed_forward.{n}.intermediate": f"{_BERT_LAYER}.intermediate.dense",
        "encoder.feed_forward.{n}.output": f"{_BERT_LAYER}.output.dense",
        "encoder.feed_forward.{n}.norm": f"{_BERT_LAYER}.output.LayerNorm",
        "pooler": "pooler.dense",
        "mlm_head": "cls.predictions",
        "mlm_head.dense": "cls.predictions.transform.dense",
        "mlm_head.norm": "cls.predictions.transform.LayerNorm",
        "sentence_head.linear": "cls.seq_relationship",
    },
}

ARCHITECTURES = {
    "Albert": "Model",
    "AlbertForPretraining": "ForPreTraining",
    "AlbertForSequenceClassification": "ForSequenceClassification",
    "AlbertForTokenClassification": "ForTokenClassification",
    "AlbertForQuestionAnswering": "ForQuestionAnswering",
    "AlbertForMultipleChoice": "ForMultipleChoice",
}

# What Transformers can't express carries another model_type and prefix, so that it fails to load there.
EXTENDED_SUFFIX = "-extended"
EXTENDED_PREFIX = "extended."

# Other spellings: copies of tied weights, buffers, and the LayerNorms of the first BERT files.
_TIED_BIAS = re.compile(r"predictions\.decoder\.bias$")
_NO_WEIGHT = re.compile(r"embeddings\.(position_ids|token_type_ids)$|predictions\.decoder\.weight$")
_OLD_NORM = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def expressible(config: AlbertConfig) -> bool:
    """Whether Transformers' AlbertModel or BertModel computes what this configuration says."""
    standard = (config.attention == "softmax" and not config.conv_kernel_size
                and config.norm_position == "post" and config.attention_groups == config.ffn_groups)
    if config.model_type == "albert":
        return standard
    return (standard and not config.projects_embeddings and config.inner_group_num == 1
            and config.attention_groups == config.num_hidden_layers)


def disk_name(name: str, config: AlbertConfig) -> str:
    """Parameter name here to its name on disk, without the prefix `albert.` or `bert.` of the encoder's."""
    if not expressible(config):
        return EXTENDED_PREFIX + name
    module, _, leaf = name.removeprefix("albert.").rpartition(".")
    number = re.search(r"\.(\d+)\.", module)
    if number is None:
        return f"{NAMES[config.model_type][module]}.{leaf}"
    index = int(number[1])
    pattern = NAMES[config.model_type][module.replace(number[0], ".{n}.")]
    group, inner = divmod(index, config.inner_group_num)
    return f"{pattern.format(n=index, group=group, inner=inner)}.{leaf}"


def plain_name(name: str, model_type: str) -> str | None:
    """Any spelling of a name on disk to the one `disk_name` gives; None for what is no weight of its own."""
    name = name.removeprefix(f"{model_type}.")
    if _NO_WEIGHT.search(name):
        return None
    for old, new in _OLD_NORM.items():
        name = name.replace(old, new)
    return _TIED_BIAS.sub("predictions.bias", name)
