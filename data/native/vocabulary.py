"""Vocabularies on disk: a tokenizer.json, a SentencePiece ``.model`` or ``.vocab``, BERT's ``vocab.txt``."""
import base64
import json
import re
import struct
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.errors import DataError
from data.native.normalization import strip_accents
from data.native.tokenizer import Tokenizer, special_ids
from data.sentences import JOINERS

ALBERT_SPECIALS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NAMES = ("tokenizer.json", "spiece.model", "vocab.txt")
UNIGRAM, UNKNOWN = 1, 2      # of the enumerations in sentencepiece_model.proto


def load_tokenizer(path) -> Tokenizer:
    """The tokenizer of a file, or of the first of ``NAMES`` in a folder; DataError where it can't be read."""
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in NAMES if (path / name).is_file()]
        if not found:
            raise DataError(f"{path}: no tokenizer in this folder (looked for {', '.join(NAMES)})")
        path = found[0]
    if not path.is_file():
        raise DataError(f"{path}: no such tokenizer; give a tokenizer.json, a SentencePiece .model or .vocab, "
                        "a vocab.txt or a folder with one")
    try:
        if path.suffix == ".model":
            return _read_albert_vocabulary(path, *read_sentencepiece_model(path.read_bytes()))
        if path.suffix == ".vocab":
            return _read_albert_vocabulary(path, *read_sentencepiece_vocab(path.read_text(encoding="utf-8")))
        if path.suffix == ".txt":
            return _read_bert_vocabulary(path)
        config = json.loads(path.read_text(encoding="utf-8"))
        tokenizer = Tokenizer(config | {"truncation": None, "padding": None})
        special_ids(tokenizer)                           # refuses one without them
        return tokenizer
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, StopIteration, RecursionError,
            struct.error) as error:
        raise DataError(f"{path}: no tokenizer that can be read ({type(error).__name__}: {error})") from None


def read_sentencepiece_model(data: bytes) -> tuple[list[tuple[str, float]], int, bytes]:
    """``(piece, log probability)`` by id, the id of the unknown piece, and the normaliser's character map.

    The numbers of the fields are those of sentencepiece_model.proto.
    """
    pieces, kinds, specs = [], [], {2: {}, 3: {}}        # TrainerSpec and NormalizerSpec: values by their fields
    for field, value in protobuf_fields(data):
        if field == 1:                                   # SentencePiece: 1 piece, 2 score, 3 type
            entry = dict(protobuf_fields(value))
            pieces.append((entry[1].decode(), entry.get(2, 0.0)))
            kinds.append(entry.get(3, 1))
        elif field in specs:
            specs[field] = dict(protobuf_fields(value))
    training, normalizer = specs[2], specs[3]
    if training.get(3, UNIGRAM) != UNIGRAM or not pieces:
        raise DataError("not a Unigram SentencePiece model, which ALBERT needs")
    for option, set_so in (("treat_whitespace_as_suffix", training.get(24)), ("split_by_whitespace=false", not training.get(22, 1)),
                           ("add_dummy_prefix=false", not normalizer.get(3, 1)), ("byte_fallback", training.get(35))):
        if set_so:
            raise DataError(f"trained with --{option}, which would be read otherwise here: train it without, or convert it to "
                            "a tokenizer.json")
    return pieces, kinds.index(UNKNOWN), normalizer.get(2, b"")


def protobuf_fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """``(number, value)`` of each field of a protocol buffer: each begins with 8 * number + wire type as a varint."""
    place = 0

    def varint() -> int:
        """Seven bits a byte, the lowest first; the eighth bit says that another byte follows."""
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            value |= (byte & 0x7F) << shift
            place, shift = place + 1, shift + 7
            if byte < 0x80:
                return value

    while place < len(data):
        tag = varint()
        wire_type = tag & 7
        if wire_type == 0:
            yield tag >> 3, varint()
            continue
        if wire_type not in (1, 2, 5):
            raise DataError("not a protocol buffer")
        size = varint() if wire_type == 2 else 4 if wire_type == 5 else 8
        value, place = data[place:place + size], place + size
        if len(value) < size:
            raise DataError("not a SentencePiece model: it ends too early")
        yield tag >> 3, value if wire_type == 2 else struct.unpack("<f" if wire_type == 5 else "<d", value)[0]


def read_sentencepiece_vocab(text: str) -> tuple[list[tuple[str, float]], int, bytes]:
    """As ``read_sentencepiece_model``, of lines ``piece<tab>score``, which carry no character map."""
    pieces = [(piece, float(score)) for piece, score in (line.split("\t") for line in text.split("\n") if line)]
    return pieces, [piece for piece, _ in pieces].index("<unk>"), b""


def albert_tokenizer(pieces: list[tuple[str, float]], unk_id: int, charsmap: bytes = b"", lower: bool = True,
                     keep_accents: bool = False) -> Tokenizer:
    """Unigram with the normalisation of ALBERT's tokenization.py: quotes, NFKD, accents, case, blanks.

    ``charsmap`` is applied after these; in its absence SentencePiece's rules ``nmt`` are, before them, and accents that are
    kept are composed.
    """
    steps = [_replace(quotes, '"') for quotes in ("``", "''")]
    kept = list(zip(JOINERS, "\ufdd0\ufdd1")) if keep_accents else []          # nmt would make blanks of them
    if not charsmap:
        steps += [*(_replace(joiner, stand_in) for joiner, stand_in in kept), {"type": "Nmt"},
                  *(_replace(stand_in, joiner) for joiner, stand_in in kept)]
        steps += [{"type": "NFC"}] if keep_accents else []
    steps += [] if keep_accents else [{"type": "NFKD"}, {"type": "StripAccents"}]
    steps += [{"type": "Lowercase"}] if lower else []
    if charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()})
    steps += [{"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
              {"type": "Strip", "strip_left": True, "strip_right": True}]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    model = {"type": "Unigram", "unk_id": unk_id, "vocab": [list(piece) for piece in pieces], "byte_fallback": False}
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    return Tokenizer(_written(ALBERT_SPECIALS, ids, {"type": "Sequence", "normalizers": steps}, metaspace,
                              metaspace, model))


def _replace(text: str, content: str) -> dict:
    return {"type": "Replace", "pattern": {"String": text}, "content": content}


def bert_tokenizer(pieces: list[str], lower: bool = True, strip_accents: bool | None = None,
                   chinese_characters: bool = True) -> Tokenizer:
    """WordPiece as in BERT's tokenization.py; ``pieces`` by id."""
    last = {piece: index for index, piece in enumerate(pieces)}                 # of a piece that is there twice
    ids = {piece: index for index, piece in enumerate(pieces) if last[piece] == index}
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": chinese_characters,
                  "strip_accents": strip_accents, "lowercase": lower}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100, "vocab": ids}
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    return Tokenizer(_written(BERT_SPECIALS, ids, normalizer, {"type": "BertPreTokenizer"}, decoder, model))


def _written(specials, ids: dict[str, int], normalizer: dict, pre_tokenizer: dict, decoder: dict, model: dict) -> dict:
    """A tokenizer.json, its keys in the order in which 🤗 Tokenizers writes them."""
    missing = [token for token in specials if token not in ids]
    if missing:
        raise DataError(f"the tokenizer has no token {', '.join(missing)}; ALBERT and BERT need it")
    added = [{"id": ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for token in specials]
    cls, a, sep_a, b, sep_b = (
        {kind: {"id": name, "type_id": segment}} for kind, name, segment in (
            ("SpecialToken", "[CLS]", 0), ("Sequence", "A", 0), ("SpecialToken", "[SEP]", 0),
            ("Sequence", "B", 1), ("SpecialToken", "[SEP]", 1)))
    framing = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": sorted(added, key=lambda token: token["id"]),
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": {"type": "TemplateProcessing", "single": [cls, a, sep_a],
                               "pair": [cls, a, sep_a, b, sep_b], "special_tokens": framing},
            "decoder": decoder, "model": model}


def _settings_beside(path: Path) -> dict:
    """The tokenizer_config.json in the folder of a vocabulary; empty where there is none."""
    file = path.with_name("tokenizer_config.json")
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _as_written(pieces: Iterable[str]) -> dict:
    """The settings of a vocabulary that come without: lower case and no accents where no piece has others."""
    text = "".join(piece for piece in pieces if not re.fullmatch(r"\[.*\]|<.*>", piece))
    return {"do_lower_case": text == text.lower(), "keep_accents": text != strip_accents(unicodedata.normalize("NFKD", text))}


def _read_albert_vocabulary(path: Path, pieces: list[tuple[str, float]], unk_id: int, charsmap: bytes) -> Tokenizer:
    """In the case and with the accents that its settings say or, without any, that its pieces have."""
    settings = _settings_beside(path) or _as_written(piece for piece, _ in pieces)
    try:
        return albert_tokenizer(pieces, unk_id, charsmap, settings.get("do_lower_case", True),
                                settings.get("keep_accents", False))
    except DataError as error:
        raise DataError(f"{error}; train it with --pad_id=0 --unk_id=1 --bos_id=-1 --eos_id=-1 "
                        "--control_symbols=[CLS],[SEP],[MASK]") from None


def _read_bert_vocabulary(path: Path) -> Tokenizer:
    """In the case that its settings say or, without any, that its pieces have."""
    # a piece of Chinese vocabularies is the line separator U+2028, at which splitlines would cut
    pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    settings = _settings_beside(path) or _as_written(pieces)
    return bert_tokenizer(pieces, settings.get("do_lower_case", True), settings.get("strip_accents"),
                          settings.get("tokenize_chinese_chars", True))
