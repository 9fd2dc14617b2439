"""Unicode normalisation: the steps that a tokenizer.json names, each a function from text to text.

The tables of Unicode come with Python (``unicodedata``). Those of 🤗 Tokenizers are other versions, so that some
code points are treated differently; ``unicode_differences.json`` lists them all, by Python's version.
"""
import base64
import re
import unicodedata
from collections.abc import Callable

from data.errors import DataError
from data.native.charsmap import read_charsmap, replace_by_charsmap

WHITE_SPACE = "".join(map(chr, (*range(0x9, 0xE), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F,
                                0x205F, 0x3000)))   # Unicode's property; str.isspace() has four controls more
_WHITE_SPACE = re.compile(f"[{WHITE_SPACE}]")
_RUN_OF_SPACE = re.compile(f"[{WHITE_SPACE}]+")
_BLANKS = re.compile(" {2,}")
_IDEOGRAPHS = re.compile("([\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
                         "\U0002b920-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f])")
_NMT_DELETED = "\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f"
_NMT_BLANK = "\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd"


def make_normalizer(config: dict | None) -> Callable[[str], str]:
    """The function that the ``normalizer`` entry of a tokenizer.json describes; DataError for an unknown step."""
    if config is None:
        return lambda text: text
    kind = config["type"]
    if kind == "Sequence":
        steps = [make_normalizer(step) for step in config["normalizers"]]
        return lambda text: _apply(steps, text)
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        return lambda text: unicodedata.normalize(kind, text)
    if kind == "Precompiled":
        charsmap = read_charsmap(base64.b64decode(config["precompiled_charsmap"]))
        return lambda text: replace_by_charsmap(text, *charsmap)
    if kind == "Replace":
        return _replacement(config["pattern"], config["content"])
    if kind == "Strip":
        return lambda text: strip(text, config["strip_left"], config["strip_right"])
    if kind == "BertNormalizer":
        return lambda text: bert_normalize(text, config["clean_text"], config["handle_chinese_chars"],
                                           config["strip_accents"], config["lowercase"])
    steps = {"Nmt": nmt, "StripAccents": strip_accents, "Lowercase": lower}
    if kind not in steps:
        raise DataError(f"tokenizer.json: normalizer {kind}: the native pipeline has none of that name; "
                        "--preprocess fast reads it")
    return steps[kind]


def _apply(steps, text):
    for step in steps:
        text = step(text)
    return text


def _replacement(pattern: dict, content: str) -> Callable[[str], str]:
    if "String" in pattern:
        return lambda text: text.replace(pattern["String"], content)
    known = {r"\s+": _RUN_OF_SPACE, " {2,}": _BLANKS}   # the dialects of Python and the library are not the same
    if pattern["Regex"] not in known:
        raise DataError(f"tokenizer.json: Replace with the pattern {pattern['Regex']!r}: the native pipeline knows "
                        f"{' and '.join(map(repr, known))}; --preprocess fast reads it")
    return lambda text: known[pattern["Regex"]].sub(lambda _: content, text)


def nmt(text: str) -> str:
    """SentencePiece's rules ``nmt``: control characters go, odd blanks, ``▁`` and U+FFFD become a blank."""
    return re.sub(f"[{_NMT_BLANK}]", " ", re.sub(f"[{_NMT_DELETED}]", "", text))


def strip_accents(text: str) -> str:
    """Without combining marks (categories Mn, Mc, Me); after NFKD or NFD these are the accents."""
    if text.isascii():
        return text
    return "".join(character for character in text if unicodedata.category(character)[0] != "M")


def lower(text: str) -> str:
    """In lower case, each character for itself: a final Σ becomes σ, as anywhere in a word."""
    return "".join(map(str.lower, text)) if "Σ" in text else text.lower()


def strip(text: str, left: bool = True, right: bool = True) -> str:
    """Without white space at its left and right end."""
    text = text.lstrip(WHITE_SPACE) if left else text
    return text.rstrip(WHITE_SPACE) if right else text


def bert_normalize(text: str, clean_text: bool = True, handle_chinese_chars: bool = True,
                   strip_accents: bool | None = None, lowercase: bool = True) -> str:
    """BERT's BasicTokenizer up to the splitting: controls go, ideographs stand alone, accents and case go.

    ``strip_accents=None`` means: where ``lowercase``.
    """
    if clean_text:
        kept = (c for c in text if c in "\t\n\r"
                or c != "\ufffd" and unicodedata.category(c) not in ("Cc", "Cf", "Co"))
        text = _WHITE_SPACE.sub(" ", "".join(kept))
    if handle_chinese_chars:
        text = _IDEOGRAPHS.sub(r" \1 ", text)
    if lowercase if strip_accents is None else strip_accents:
        decomposed = unicodedata.normalize("NFD", text)
        text = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
    return lower(text) if lowercase else text
