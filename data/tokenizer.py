"""Tokenizers: read, write and describe them. Unigram as in ALBERT's release, WordPiece as in BERT's.

All of them are `tokenizers.Tokenizer`; a folder that `save_tokenizer` wrote opens in Transformers too.
"""
import json
import re
import string
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors)

from data.building import whole
from data.errors import DataError
from data.sentences import JOINERS, WITHOUT_BLANKS

ALBERT_SPECIALS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
METASPACES = ["Metaspace"], ["WhitespaceSplit", "Metaspace"]  # the latter of ALBERT's on the hub
UNKNOWN_SHARE = 0.02  # of a text's tokens, above which a user should know of it


def load_tokenizer(path) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, of a SentencePiece `.model`, of BERT's `vocab.txt`, or of a folder with one.

    A vocabulary without a `tokenizer_config.json` beside it is read in the case that its pieces have.
    A folder is a run, a checkpoint or a model in the Hugging Face layout; the first of `tokenizer.json`,
    `spiece.model` and `vocab.txt` in it counts, with what `added_tokens.json` and `tokenizer_config.json` beside it say.
    Padding and truncation that the file asks for are off; a text without [CLS] before it gets [CLS] and [SEP] around it.
    Raises DataError where there is none, it can't be read, lacks a special token or is of a class that reads otherwise.
    """
    path = Path(path)
    if path.is_dir():
        names = ("tokenizer.json", "spiece.model", "vocab.txt")
        found = next((path / name for name in names if (path / name).is_file()), None)
        if found is None:
            raise DataError(f"{path}: no tokenizer in this folder (looked for {', '.join(names)}); "
                            "data.tokenizer.save_tokenizer writes one")
        path = found
    if not path.is_file():
        raise DataError(f"{path}: no such tokenizer; give a tokenizer.json, a SentencePiece .model, a vocab.txt "
                        "or a folder with one")
    settings = _json_beside(path, "tokenizer_config.json")
    for key, token in (("cls_token", "[CLS]"), ("sep_token", "[SEP]"), ("mask_token", "[MASK]")):
        said = settings.get(key)
        if (said := said.get("content") if isinstance(said, dict) else said) not in (None, token):
            raise DataError(f"{path.with_name('tokenizer_config.json')}: {key}={said!r}: only {token!r} is supported")
    if path.suffix in (".model", ".txt"):
        read = _read_sentencepiece if path.suffix == ".model" else _read_bert_vocabulary
        return _segmented(_with_added(read(path, settings), path), settings)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a file that it can't parse
        raise DataError(f"{path}: not a tokenizer.json of the tokenizers library ({error})") from None
    try:
        special = special_ids(tokenizer)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    tokenizer = _as_configured(tokenizer, path, settings)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    framed = tokenizer.encode("").ids[:1] == [special.cls]       # not where it was trained without a post-processor
    return _segmented(tokenizer if framed else _frame(tokenizer), settings)


def save_tokenizer(tokenizer: Tokenizer, folder, positions: int | None = None) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into `folder`, each whole or not at all; ``positions``: of the
    model, for Transformers to cut to.

    The configuration names the class and the special tokens: without them Transformers 5 builds a
    normaliser of its own where `config.json` says `model_type: albert`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    special = vars(special_ids(tokenizer))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": tokenizer.id_to_token(index) for name, index in special.items()},
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        **({"model_max_length": positions} if positions else {}),
    }
    for name, text in (("tokenizer.json", tokenizer.to_str(pretty=True)),
                       ("tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")):
        with whole(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def special_ids(tokenizer: Tokenizer) -> SimpleNamespace:
    """Ids `pad`, `unk`, `cls`, `sep`, `mask`, by name (`<pad>` or `[PAD]`); DataError for any missing."""
    ids, missing = {}, []
    for albert, bert in zip(ALBERT_SPECIALS, BERT_SPECIALS):
        name = bert.strip("[]").lower()
        found = [index for token in (albert, bert) if (index := tokenizer.token_to_id(token)) is not None]
        if found:
            ids[name] = found[0]
        else:
            missing.append(albert if albert == bert else f"{albert} or {bert}")
    _refuse_without(missing)
    return SimpleNamespace(**ids)


def _refuse_without(tokens: list[str]) -> None:
    if tokens:
        raise DataError(f"the tokenizer has no token {', '.join(tokens)}; ALBERT and BERT need it")


def vocabulary_size(tokenizer) -> int:
    """The embeddings that its ids need. Pieces may be fewer: a vocab.txt with a piece twice leaves an id without one."""
    return max(tokenizer.get_vocab().values()) + 1


def word_starts(tokenizer: Tokenizer) -> np.ndarray:
    """(V,) bool: whether a piece begins a word, for masking by whole words.

    WordPiece: every piece without `##`. Unigram: as `_is_start_piece_sp` of ALBERT's release, pieces
    with `▁`, single punctuation marks and all pieces with a character beside letters and punctuation; letters are
    not a-z alone here, as in the release's vocabulary, but those of every script with blanks between its words.
    BPE likewise, by its prefix, its `▁`, or the `Ġ` of byte-level pieces. Of a model without any such mark each piece
    counts as a word.
    """
    pieces = [tokenizer.id_to_token(index) or "" for index in range(vocabulary_size(tokenizer))]
    if prefix := getattr(tokenizer.model, "continuing_subword_prefix", None):
        return np.array([not piece.startswith(prefix) for piece in pieces])
    specials = {*ALBERT_SPECIALS, *BERT_SPECIALS}
    mark = next((mark for mark in "▁Ġ" if any(piece.startswith(mark) for piece in pieces)), None)
    if mark is None:
        return np.ones(len(pieces), bool)
    if mark == "Ġ":                                            # of bytes: their characters are no letters of a script
        return np.array([piece.startswith("Ġ") or piece in specials or set(piece) <= set(string.punctuation)
                         for piece in pieces])
    # In the release "'", "<", "=" and ">" are no punctuation, and so begin a word wherever they occur.
    joining = set(string.punctuation) - set("'<=>") | {"€", "£"}

    letters = [[character for character in piece if character not in joining] for piece in pieces]
    return np.array([piece in specials or not rest or not all(map(_is_letter, rest))
                     for piece, rest in zip(pieces, letters)])


def _is_letter(character: str) -> bool:
    """Whether it is a letter, or a mark on one or a joiner of two, of a script with blanks between its words."""
    return character in JOINERS or unicodedata.category(character)[0] in "LM" and not WITHOUT_BLANKS.match(character)


def albert_tokenizer(vocabulary, unk_id: int, charsmap: bytes = b"", lower: bool = True,
                     keep_accents: bool = False) -> Tokenizer:
    """Unigram tokenizer that normalises as ALBERT's `tokenization.py`: quotes, NFKD, accents, case, spaces.

    `vocabulary`: (piece, log probability) by id; `charsmap`: a SentencePiece model's own normalisation,
    applied last, in its absence SentencePiece's rules for control characters (`nmt`) come first, and accents that are kept
    are composed (NFC).
    """
    steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    # `nmt` makes blanks of the joiners that words of Sinhala, Persian or Hindi have within them
    kept = list(zip(JOINERS, "\ufdd0\ufdd1")) if keep_accents else []         # no characters of any text
    if not charsmap:
        steps += [*(normalizers.Replace(joiner, stand_in) for joiner, stand_in in kept), normalizers.Nmt(),
                  *(normalizers.Replace(stand_in, joiner) for joiner, stand_in in kept)]
        steps += [normalizers.NFC()] if keep_accents else []
    steps += [] if keep_accents else [normalizers.NFKD(), normalizers.StripAccents()]
    steps += [normalizers.Lowercase()] if lower else []
    steps += [normalizers.Precompiled(charsmap)] if charsmap else []
    steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unk_id))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return _with_specials(tokenizer, ALBERT_SPECIALS)


def splits(parts: dict) -> tuple[list[str], dict]:
    """The kinds of the steps that a tokenizer.json, parsed, splits a text by, and the last step."""
    split = parts["pre_tokenizer"] or {}
    steps = split.get("pretokenizers", [split])
    return [step.get("type") for step in steps], steps[-1]


def for_masks(tokenizer: Tokenizer) -> tuple[Tokenizer, str]:
    """A copy that reads a text with [MASK] in it as pretraining does, which replaces ids: a piece right after a mask begins
    no word, and no piece stands for the blank before one; and what to put before the text, a blank or nothing, lest a first
    character that normalisation replaces or drops begin no word. Texts without special tokens so keep their ids.

    🤗 Tokenizers puts `▁` before each part of a text between special tokens, as Transformers does for ALBERT.
    """
    parts, lead = json.loads(tokenizer.to_str()), ""
    kinds, last = splits(parts)
    if kinds in METASPACES and last.get("prepend_scheme") == "always":
        steps = parts["normalizer"] or {"type": "Sequence", "normalizers": []}
        steps = [step for step in steps.get("normalizers", [steps]) if step["type"] != "Strip"]
        parts["normalizer"] = {"type": "Sequence", "normalizers": [
            *steps, {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Strip", "strip_left": False, "strip_right": True}]}
        parts["pre_tokenizer"], lead = {**last, "prepend_scheme": "first"}, " "
    elif "ByteLevel" in kinds:
        mask = special_ids(tokenizer).mask
        parts["added_tokens"] = [{**token, "lstrip": token["lstrip"] or token["id"] == mask} for token in parts["added_tokens"]]
    return Tokenizer.from_str(json.dumps(parts)), lead


def part_digits_from_commas(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer as ALBERT's `encode_pieces` uses it: no piece ends in a digit and a comma.

    The release encodes such a piece again, without the comma. Here the 141 pieces of its vocabulary are made
    too improbable to be chosen, which keeps all ids, and gives the same but where a piece like `1,4` remains.
    """
    parts = json.loads(tokenizer.to_str())
    for entry in parts["model"]["vocab"]:
        if re.search(r"\d,$", entry[0]):
            entry[1] = -200.0
    return Tokenizer.from_str(json.dumps(parts))


def bert_tokenizer(vocabulary: dict[str, int], lower: bool = True, strip_accents: bool | None = None,
                   chinese_characters: bool = True) -> Tokenizer:
    """WordPiece tokenizer as BERT's `tokenization.py`; `vocabulary`: piece to id."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lower, strip_accents=strip_accents, handle_chinese_chars=chinese_characters)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _with_specials(tokenizer, BERT_SPECIALS)


def _with_specials(tokenizer: Tokenizer, tokens) -> Tokenizer:
    """Frame texts by the special tokens, and mark these, once none is missing: the library would add it."""
    _refuse_without([token for token in tokens if tokenizer.token_to_id(token) is None])
    _frame(tokenizer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in tokens])
    return tokenizer


def _frame(tokenizer: Tokenizer, second: int = 1) -> Tokenizer:
    """Make one text [CLS] A [SEP], two [CLS] A [SEP] B [SEP], the latter part of the segment ``second``."""
    special = special_ids(tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair=f"[CLS]:0 $A:0 [SEP]:0 $B:{second} [SEP]:{second}",
        special_tokens=[("[CLS]", special.cls), ("[SEP]", special.sep)])
    return tokenizer


def _read_sentencepiece(path: Path, settings: dict) -> Tokenizer:
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError:
        raise DataError(f"{path}: not a SentencePiece model") from None
    if proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM or not proto.pieces:
        raise DataError(f"{path}: not a Unigram SentencePiece model, which ALBERT needs")
    vocabulary = [(piece.piece, piece.score) for piece in proto.pieces]
    unk_id = next(index for index, piece in enumerate(proto.pieces) if piece.type == piece.UNKNOWN)
    training, normalizer = proto.trainer_spec, proto.normalizer_spec
    for option, set_so in (("treat_whitespace_as_suffix", training.treat_whitespace_as_suffix),
                           ("split_by_whitespace=false", not training.split_by_whitespace),
                           ("add_dummy_prefix=false", not normalizer.add_dummy_prefix),
                           ("byte_fallback", training.byte_fallback)):
        if set_so:
            raise DataError(f"{path}: trained with --{option}, which would be read otherwise here: train it without, or "
                            "convert it to a tokenizer.json")
    settings = settings or _as_written(piece for piece, _ in vocabulary)
    try:
        return albert_tokenizer(vocabulary, unk_id, proto.normalizer_spec.precompiled_charsmap,
                                settings.get("do_lower_case", True), settings.get("keep_accents", False))
    except DataError as error:
        raise DataError(f"{path}: {error}; train it with --pad_id=0 --unk_id=1 --bos_id=-1 --eos_id=-1 "
                        "--control_symbols=[CLS],[SEP],[MASK]") from None


def _as_written(pieces: Iterable[str]) -> dict:
    """The settings of a vocabulary that come without: lower case and no accents where no piece has others."""
    text = "".join(piece for piece in pieces if not re.fullmatch(r"\[.*\]|<.*>", piece))
    plain = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()])
    return {"do_lower_case": text == text.lower(), "keep_accents": text != plain.normalize_str(text)}


def _json_beside(path: Path, name: str) -> dict:
    """The object in a JSON file in the folder of a vocabulary; empty where there is none."""
    file = path.with_name(name)
    try:
        settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: {error}") from None
    if not isinstance(settings, dict):
        raise DataError(f"{file}: expected a JSON object")
    return settings


def _with_added(tokenizer: Tokenizer, path: Path) -> Tokenizer:
    """The tokenizer with the tokens that the slow tokenizers of Transformers write into a file beside its vocabulary."""
    file, added = path.with_name("added_tokens.json"), _json_beside(path, "added_tokens.json")
    if not all(isinstance(index, int) for index in added.values()):
        raise DataError(f"{file}: expected an id for each token")
    for token, index in sorted(added.items(), key=lambda item: item[1]):
        if tokenizer.token_to_id(token) is None:
            tokenizer.add_tokens([AddedToken(token, normalized=True)])
        if tokenizer.token_to_id(token) != index:
            raise DataError(f"{file}: {token} is to be {index}, but after {path.name} it is {tokenizer.token_to_id(token)}")
    return tokenizer


def _as_configured(tokenizer: Tokenizer, path: Path, settings: dict) -> Tokenizer:
    """The tokenizer with BERT's normaliser as the settings of a class of BERT's have it, as in Transformers."""
    names = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}
    said = {ours: settings[theirs] for theirs, ours in names.items() if theirs in settings}
    if not said or not _class(settings).endswith(_BERT_CLASSES):
        return tokenizer
    parts = json.loads(tokenizer.to_str())
    normalizer = parts["normalizer"] or {}
    if normalizer.get("type") != "BertNormalizer" or said == {name: normalizer[name] for name in said}:
        return tokenizer
    try:
        return Tokenizer.from_str(json.dumps(parts | {"normalizer": normalizer | said}))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path.with_name('tokenizer_config.json')}: {error}") from None


def _segmented(tokenizer: Tokenizer, settings: dict) -> Tokenizer:
    """The tokenizer with all in segment 0 where the model is said to take no segments."""
    names = settings.get("model_input_names")
    return _frame(tokenizer, 0) if isinstance(names, list) and "token_type_ids" not in names else tokenizer


_BERT_CLASSES = ("BertTokenizer", "ElectraTokenizer")          # and DistilBertTokenizer


def _class(settings: dict) -> str:
    return str(settings.get("tokenizer_class") or "BertTokenizer").removesuffix("Fast")


def _read_bert_vocabulary(path: Path, settings: dict) -> Tokenizer:
    known = *_BERT_CLASSES, "AlbertTokenizer", "PreTrainedTokenizer", "TokenizersBackend"
    if not (kind := _class(settings)).endswith(known):
        raise DataError(f"{path.with_name('tokenizer_config.json')}: tokenizer_class={kind}: a vocab.txt is read as "
                        "BertTokenizer reads it, which would give this model other tokens; a tokenizer.json beside it works")
    try:
        # a piece of Chinese vocabularies is the line separator U+2028, at which splitlines would cut
        pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        settings = settings or _as_written(pieces)
        return bert_tokenizer({piece: index for index, piece in enumerate(pieces)},
                              settings.get("do_lower_case", True), settings.get("strip_accents"),
                              settings.get("tokenize_chinese_chars", True))
    except (ValueError, TypeError) as error:        # DataError, what decoding raises, and settings of another type
        raise DataError(f"{path}: {error}") from None

