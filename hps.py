"""Every hyperparameter, by (task, model): ``HPS[('pretrain', 'base')]`` is a ``types.SimpleNamespace``.

Dictionaries merge from general to specific and the later wins: ``_common``, then the task, then the family of
the model (``_albert_shared``), then the model (``_albert_base``), then task-and-model overrides.
"""
import ast
import copy
import difflib
import itertools
import math
from types import SimpleNamespace

_common = dict(
    seed=0,
    precision="auto",            # auto | fp32 | bf16 | fp16; auto is bf16 where the machine computes in it
    fused=True,                  # on a CPU, the functions of trainer/fused.py; false: those of albert/
    compile=False,               # torch.compile of the encoder's blocks, with static shapes; fused then has no effect
    activation_checkpointing=False,   # keep each layer's input alone and compute the layer again: memory for time
    log_every=20,                # updates
    patience=0,                  # evaluations without a better score before training ends early; 0: never
    keep_checkpoints=2,          # the newest ones; the best (by held-out loss; fine-tuning: by score) is kept beside them
    muon_learning_rate=0.02,     # of Muon's part where optimizer=muon
    adam_beta1=0.9,
    adam_beta2=0.999,
    adam_eps=1e-6,
    clip_norm=1.0,
)

# The ALBERT paper, section 4.1 and the release's run_pretraining.py.
_pretrain = dict(
    seq_len=512,
    batch_size=4096,             # sequences an update, over all processes and micro-batches
    micro_batch_size=32,         # sequences a forward pass
    learning_rate=0.00176,
    warmup_steps=3125,
    max_steps=125_000,
    weight_decay=0.01,
    optimizer="lamb",            # lamb | adamw | muon (Muon for linear layers, AdamW for embeddings and the rest)
    mask_prob=0.15,
    max_ngram=3,
    whole_words=True,
    language="en",               # of the text, for its cut into sentences: a Wikipedia's code, such as de, hi or zh
    lower_case=True,             # a vocabulary trained on the text is of lower case; false: as the text is written
    strip_accents=True,          # ... and without accents; false where they tell words apart, as in Hindi or Japanese
    short_seq_prob=0.1,
    sentence_objective="sop",    # sop | nsp | none
    heldout_fraction=0.005,      # of the documents
    eval_sequences=2048,         # held-out sequences an evaluation reads
    save_every=1000,
    eval_every=1000,
    num_workers=2,               # processes that build batches; 0 builds them in the training process
    tokenizer_kind="unigram",    # unigram | wordpiece: of a vocabulary trained on the text
)

_finetune = dict(
    seq_len=512,                 # tokens; batches are padded to their longest row
    batch_size=16,
    micro_batch_size=16,
    bucket_batches=50,           # batches whose examples are sorted by length together; 1: not at all
    learning_rate=2e-5,
    warmup_steps=None,           # None: warmup_share of max_steps
    warmup_share=0.1,
    max_steps=None,              # None: what max_epochs come to, which caps it unless it alone is set
    max_epochs=3,
    weight_decay=0.01,
    optimizer="adamw",
    eval_every=None,             # None: every quarter of an epoch, rounded down
    save_every=None,             # None: when the score is the best, and at the end of an epoch
    keep_checkpoints=1,
    class_weights="none",        # none | balanced
    label_smoothing=0.0,
    doc_stride=128,              # tokens from one window of a context to the next, at most three quarters of a window
)

# The ALBERT paper, table 14. Steps fit the full sets; max_epochs is what they come to there.
_finetune_tasks = {
    "cola": dict(learning_rate=1e-5, batch_size=16, max_steps=5336, warmup_share=320 / 5336, max_epochs=10),
    "stsb": dict(learning_rate=2e-5, batch_size=16, max_steps=3598, warmup_share=214 / 3598, max_epochs=11),
    "sst2": dict(learning_rate=1e-5, batch_size=32, max_steps=20_935, warmup_share=1256 / 20_935, max_epochs=10),
    "mnli": dict(learning_rate=3e-5, batch_size=128, max_steps=10_000, warmup_share=0.1, max_epochs=4),
    "qnli": dict(learning_rate=1e-5, batch_size=32, max_steps=33_112, warmup_share=1986 / 33_112, max_epochs=11),
    "qqp": dict(learning_rate=5e-5, batch_size=128, max_steps=14_000, warmup_share=1 / 14, max_epochs=5),
    "rte": dict(learning_rate=3e-5, batch_size=32, max_steps=800, warmup_share=0.25, max_epochs=11),
    "mrpc": dict(learning_rate=2e-5, batch_size=32, max_steps=800, warmup_share=0.25, max_epochs=7),
    "wnli": dict(learning_rate=2e-5, batch_size=16, max_steps=2000, warmup_share=0.125, max_epochs=51),
    "squad": dict(learning_rate=5e-5, batch_size=48, max_steps=3649, warmup_share=365 / 3649, max_epochs=2, seq_len=384),
    "squad2": dict(learning_rate=3e-5, batch_size=48, max_steps=8144, warmup_share=0.1, max_epochs=3),
    # with v1's recipe v2 models diverge on RACE: the release takes 1e-5 and no dropout for them
    "race": dict(learning_rate=2e-5, batch_size=32, micro_batch_size=4, max_steps=12_000, warmup_share=1 / 12,
                 max_epochs=5),
    "ner": dict(),
    "classify": dict(),
    "regress": dict(),
    "pair": dict(),
    "tag": dict(),
}
_encoder_dropout = dict(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)

# Released v2 shapes; v1 differs in dropout (0.1 below xxlarge) and activation (gelu).
_albert_shared = dict(
    model_type="albert",
    vocab_size=30_000,
    embedding_size=128,
    num_hidden_groups=1,
    inner_group_num=1,
    share="all",                 # all | attention | ffn | none
    hidden_act="gelu_new",
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    classifier_dropout_prob=0.1,
    max_position_embeddings=512,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
    initializer_range=0.02,
    norm_position="post",        # post, as in the paper | pre
    attention="nystrom",         # nystrom | softmax | linformer | performer | linear | local | mra
    num_landmarks=64,            # nystrom; linformer's projected length
    pinv_iterations=6,
    pinv_init="exact",           # exact, per matrix | original, the released one
    num_features=256,            # performer
    attention_window=256,        # local: tokens on both sides together
    block_size=32,               # mra: tokens
    blocks_per_row=4,            # mra: blocks of keys that a block of queries sees token by token
    conv_kernel_size=None,       # None: what the kind of attention brings along (nystrom 33, softmax 0)
)

_albert_base = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
_albert_large = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
_albert_xlarge = dict(hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, intermediate_size=8192)
_albert_xxlarge = dict(hidden_size=4096, num_hidden_layers=12, num_attention_heads=64, intermediate_size=16384)
_albert_tiny = dict(
    vocab_size=8000,
    hidden_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=1024,
    max_position_embeddings=128,
    attention="softmax",         # at 128 tokens Nyström is not cheaper
    conv_kernel_size=9,
)

# Devlin et al. 2019, appendix A.2.
_bert_shared = dict(
    _albert_shared,
    model_type="bert",
    vocab_size=30_522,
    share="none",
    attention="softmax",
    hidden_act="gelu",
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
)
_bert_base = dict(_albert_base, embedding_size=768)
_bert_large = dict(_albert_large, embedding_size=1024)

# Chosen by measuring (docs/pretraining.md): what learns most in ten minutes on two cores.
_pretrain_albert_tiny = dict(
    seq_len=128,
    batch_size=32,
    learning_rate=0.003,
    optimizer="muon",
    warmup_steps=60,
    max_steps=540,               # eight to ten minutes of two cores that have no bf16
    mask_prob=0.3,
    heldout_fraction=0.05,
    eval_sequences=512,
    save_every=180,
    eval_every=90,
    num_workers=0,
)
_pretrain_bert = dict(
    batch_size=256,
    learning_rate=1e-4,
    warmup_steps=10_000,
    max_steps=1_000_000,
    optimizer="adamw",
    max_ngram=1,
    whole_words=False,
    sentence_objective="nsp",
    tokenizer_kind="wordpiece",
)

_families = {
    "tiny": (_albert_shared, _albert_tiny),
    "base": (_albert_shared, _albert_base),
    "large": (_albert_shared, _albert_large),
    "xlarge": (_albert_shared, _albert_xlarge),
    "xxlarge": (_albert_shared, _albert_xxlarge),
    "bert-base": (_bert_shared, _bert_base),
    "bert-large": (_bert_shared, _bert_large),
}
_tasks = {"pretrain": (_pretrain,)} | {f"finetune-{task}": (_finetune, recipe)
                                       for task, recipe in _finetune_tasks.items()}
_overrides = {
    ("pretrain", "tiny"): _pretrain_albert_tiny,
    ("pretrain", "bert-base"): _pretrain_bert,
    ("pretrain", "bert-large"): _pretrain_bert,
} | {(f"finetune-{task}", model): _encoder_dropout for task in ("qqp", "rte", "wnli", "race") for model in _families}


class SettingError(ValueError):
    """An unknown (task, model), key or value; the message lists what there is."""


class _Settings(dict):
    def __missing__(self, key):
        models = [model for task, model in self if task == key[0]]
        if models:
            raise SettingError(f"--model {key[1]}: there are {', '.join(models)}")
        raise SettingError(f"no task {key[0]!r}; there are {', '.join(dict.fromkeys(task for task, _ in self))}")


def _merge(*dictionaries):
    merged = {}
    for dictionary in dictionaries:
        merged.update(dictionary)
    return SimpleNamespace(**merged)


HPS = _Settings({
    (task, model): _merge(_common, *_tasks[task], *_families[model], _overrides.get((task, model), {}))
    for task in _tasks
    for model in _families
})


def override(hps, assignments):
    """Apply ``key=value`` texts to ``hps`` in place; a value is parsed by the type of the present one.

    Returns the keys that were set. Raises SettingError for an unknown key (naming the nearest) or a value
    of another type.
    """
    keys = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise SettingError(f"--set {assignment}: write it as key=value")
        if not hasattr(hps, key):
            near = difflib.get_close_matches(key, vars(hps), n=1, cutoff=0.0)
            raise SettingError(f"--set {assignment}: no such key; the nearest is {near[0]}")
        setattr(hps, key, _parse(key, text, getattr(hps, key)))
        keys.append(key)
    return keys


def grid(hps, keys, sweeps):
    """(words, hyperparameters, keys that were set) for each combination of the values of ``sweeps``, texts like
    ``key=value,value``, where ``keys`` were set before. Raises SettingError."""
    axes = []
    for sweep in sweeps:
        key, equals, values = sweep.partition("=")
        axis = [f"{key}={value}" for value in values.split(",")]
        if not (equals and values):
            raise SettingError(f"--sweep {sweep}: write it as key=value,value")
        if len(set(axis)) < len(axis) or any(other[0].startswith(f"{key}=") for other in axes):
            raise SettingError(f"--sweep {sweep}: write each key once, with all its values, and each of them once")
        axes.append(axis)
    for assignments in itertools.product(*axes):
        swept = copy.copy(hps)
        try:
            yield " ".join(assignments) or "as set", swept, [*keys, *override(swept, assignments)]
        except SettingError as error:
            raise SettingError(str(error).replace("--set", "--sweep", 1)) from None


_CHOICES = {
    "optimizer": ("lamb", "adamw", "muon"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "sentence_objective": ("sop", "nsp", "none"),
    "tokenizer_kind": ("unigram", "wordpiece"),
    "class_weights": ("none", "balanced"),
}
_BOUNDS = (
    ("at least 1", lambda value: value >= 1,
     ("log_every", "save_every", "eval_every", "eval_sequences", "keep_checkpoints", "batch_size", "micro_batch_size",
      "max_steps", "max_epochs", "max_ngram", "bucket_batches", "doc_stride")),
    ("at least 0", lambda value: value >= 0,
     ("seed", "num_workers", "warmup_steps", "learning_rate", "muon_learning_rate", "weight_decay", "patience",
      "short_seq_prob", "warmup_share", "label_smoothing", "adam_beta1", "adam_beta2")),
    ("at least 8", lambda value: value >= 8, ("seq_len",)),
    ("at least 6", lambda value: value >= 6, ("vocab_size",)),          # five special tokens and one
    ("below 1", lambda value: value < 1,
     ("mask_prob", "heldout_fraction", "adam_beta1", "adam_beta2", "warmup_share", "label_smoothing")),
    ("above 0", lambda value: value > 0, ("mask_prob", "heldout_fraction", "clip_norm", "adam_eps")),
    ("at most 1", lambda value: value <= 1, ("short_seq_prob",)),
    ("at most 100", lambda value: value <= 100, ("max_ngram",)),
)


def check(hps):
    """Raise SettingError for a value that no training can have."""
    for key, choices in _CHOICES.items():
        if getattr(hps, key, choices[0]) not in choices:
            raise SettingError(f"{key}={getattr(hps, key)}: there are {', '.join(choices)}")
    for words, holds, keys in _BOUNDS:
        for key in keys:
            value = getattr(hps, key, None)
            if value is not None and (isinstance(value, str) or not holds(value)):
                raise SettingError(f"{key}={value}: it must be {words}")
    if None not in (hps.warmup_steps, hps.max_steps) and hps.warmup_steps >= hps.max_steps:
        raise SettingError(f"warmup_steps={hps.warmup_steps} is not below max_steps={hps.max_steps}: "
                           f"--set warmup_steps={hps.max_steps // 10}")


def _parse(key, text, present):
    if isinstance(present, str):
        return text
    if isinstance(present, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise SettingError(f"--set {key}={text}: write true or false")
    kind = int if present is None or isinstance(present, int) else float
    try:
        value = ast.literal_eval(text.strip())
        if isinstance(value, bool) or kind(value) != value or not abs(value) < (1 << 63 if kind is int else math.inf):
            raise ValueError
        return kind(value)
    except (ValueError, SyntaxError, TypeError, OverflowError):
        word = "a whole number" if kind is int else "a number"
        raise SettingError(f"--set {key}={text}: write {word}, like {key}={present or 0}") from None
