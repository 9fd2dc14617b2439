from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from albert.errors import ModelError

CHOICES = {
    "model_type": ("albert", "bert"),
    "hidden_act": ("gelu", "gelu_new", "relu", "tanh", "silu"),
    "norm_position": ("post", "pre"),
    "attention": ("softmax", "nystrom", "linformer", "performer", "linear", "local", "mra"),
    "share": ("all", "attention", "ffn", "none"),
    "pinv_init": ("exact", "original"),
    "sentence_objective": ("sop", "nsp", "none"),
    "problem_type": (None, "single_label_classification", "multi_label_classification", "regression"),
}

# What BERT means where a mapping is silent; the dataclass defaults are those of ALBERT base, version 2.
BERT_DEFAULTS = dict(
    vocab_size=30522, hidden_act="gelu", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
    share="none", sentence_objective="nsp",
)

# Bounds of what a file may ask for: every product of two sizes is a size that PyTorch can express.
MOST, MOST_LAYERS = 1 << 30, 1000


def shown(value) -> str:
    """A value in a message of one line."""
    return f"{type(value).__name__} of {value.bit_length()} bits" if isinstance(value, int) and abs(value) > 1 << 64 else (
        repr(value)[:100])


@dataclass
class AlbertConfig:
    """Architecture of a model: everything that decides its parameters and what it computes.

    The keys mean what they mean in the ALBERT release. `model_type` "bert" is the same network in BERT's
    layout: no projection after the embeddings where `embedding_size == hidden_size`, usually `share="none"`.

    Raises ModelError, naming key and value, for a combination that makes no model.
    """

    model_type: str = "albert"
    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_hidden_groups: int = 1
    inner_group_num: int = 1
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float | None = None   # None: 0.1 as in ALBERT, BERT's hidden_dropout_prob
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int | None = 0

    share: str = "all"
    norm_position: str = "post"
    attention: str = "softmax"                     # of a config.json without the key; hps.py has Nyström
    conv_kernel_size: int | None = None            # None: 33 tokens for Nyström, 0 (no convolution) otherwise
    num_landmarks: int = 64                        # Nyström; Linformer's projected length
    pinv_iterations: int = 6
    pinv_init: str = "exact"
    num_features: int = 256                        # Performer
    attention_window: int = 256                    # local: tokens on both sides together
    block_size: int = 32                           # MRA: tokens
    blocks_per_row: int = 4                        # MRA: blocks of keys that a block of queries sees token by token

    sentence_objective: str = "sop"
    num_labels: int = 2
    id2label: dict[int, str] | None = None
    problem_type: str | None = None

    def __post_init__(self):
        if self.conv_kernel_size is None:
            self.conv_kernel_size = 33 if self.attention == "nystrom" else 0
        if self.classifier_dropout_prob is None:
            self.classifier_dropout_prob = self.hidden_dropout_prob if self.model_type == "bert" else 0.1
        if self.id2label is not None:
            try:
                self.id2label = {int(index): str(label) for index, label in self.id2label.items()}
            except (AttributeError, ValueError):
                raise ModelError("id2label: expected an object of names by number") from None
            if sorted(self.id2label) != list(range(len(self.id2label))):
                raise ModelError(f"id2label: expected names for 0 to {len(self.id2label) - 1}")
            self.num_labels = len(self.id2label)
        self._validate()

    def _validate(self):
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                expected = ", ".join(str(choice) for choice in choices)
                raise ModelError(f"{key}={shown(getattr(self, key))}: expected one of {expected}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int or field.type == int | None and value is not None:
                least = 0 if field.name in ("conv_kernel_size", "pad_token_id", "pinv_iterations") else 1
                most = MOST_LAYERS if field.name in ("num_hidden_layers", "inner_group_num") else MOST
                if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                    raise ModelError(f"{field.name}={shown(value)}: expected a whole number from {least} to {most:,}")
            elif field.type in (float, float | None):
                if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= MOST:
                    raise ModelError(f"{field.name}={shown(value)}: expected a number from 0 to {MOST:,}")
                if field.name.endswith("dropout_prob") and value >= 1:
                    raise ModelError(f"{field.name}={value!r}: expected a probability below 1")
        if self.hidden_size % self.num_attention_heads:
            raise ModelError(f"hidden_size={self.hidden_size} is not a multiple of "
                             f"num_attention_heads={self.num_attention_heads}")
        if self.num_hidden_groups > self.num_hidden_layers:
            raise ModelError(f"num_hidden_groups={self.num_hidden_groups} is more than "
                             f"num_hidden_layers={self.num_hidden_layers}")
        if self.attention_window % 2:
            raise ModelError(f"attention_window={self.attention_window}: expected an even number of tokens")
        if self.conv_kernel_size and self.conv_kernel_size % 2 == 0:
            raise ModelError(f"conv_kernel_size={self.conv_kernel_size}: expected an odd width, or 0")
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise ModelError(f"pad_token_id={self.pad_token_id} is not below vocab_size={self.vocab_size}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def projects_embeddings(self) -> bool:
        """Whether a linear map leads from embedding_size to hidden_size: always in ALBERT."""
        return self.model_type == "albert" or self.embedding_size != self.hidden_size

    @property
    def attention_groups(self) -> int:
        """Groups of layers with attention parameters of their own."""
        return self.num_hidden_groups if self.share in ("all", "attention") else self.num_hidden_layers

    @property
    def ffn_groups(self) -> int:
        """Groups of layers with feed-forward parameters of their own."""
        return self.num_hidden_groups if self.share in ("all", "ffn") else self.num_hidden_layers

    @classmethod
    def from_dict(cls, mapping: Mapping) -> "AlbertConfig":
        """Take the architecture keys out of any mapping (hyperparameters, a config.json) and ignore the rest.

        Without `model_type` a mapping with `embedding_size` is ALBERT, another one BERT. A BERT mapping gets
        BERT's defaults, and `embedding_size` is `hidden_size` where it is not given.
        """
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in mapping.items() if key in known}
        values.setdefault("model_type", "albert" if "embedding_size" in mapping else "bert")
        if values["model_type"] == "bert":
            values = BERT_DEFAULTS | values
            values.setdefault("embedding_size", values.get("hidden_size", cls.hidden_size))
        return cls(**values)

    def to_dict(self) -> dict:
        """All keys and values, `from_dict`'s inverse."""
        return asdict(self)
