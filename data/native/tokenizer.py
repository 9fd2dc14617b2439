"""Text to ids as a tokenizer.json says: special tokens, normalisation, words, pieces.

The names and the written form are those of ``tokenizers.Tokenizer``, so that checkpoints can be saved with it.
"""
import json
import re
import unicodedata
from types import SimpleNamespace

from data.errors import DataError
from data.native.normalization import WHITE_SPACE, make_normalizer
from data.native.unigram import UNKNOWN_PENALTY, lattice, viterbi
from data.native.wordpiece import bert_words, longest_first
from data.sentences import JOINERS, WITHOUT_BLANKS

SPECIALS = (("<pad>", "[PAD]"), ("<unk>", "[UNK]"), ("[CLS]",), ("[SEP]",), ("[MASK]",))


class Tokenizer:
    """A tokenizer.json, read as a dictionary. DataError for a part that the native pipeline has not.

    ids: piece to id; scores: piece to log probability (Unigram).
    """

    def __init__(self, config: dict):
        self.config = config
        model, added = config["model"], config["added_tokens"]
        self.kind, self.wordpiece = model["type"], model["type"] == "WordPiece"
        split = config["pre_tokenizer"] or {}
        steps = split.get("pretokenizers", [split])
        kinds = [step.get("type") for step in steps]
        self.strips = kinds[0] == "WhitespaceSplit"       # as in the files of ALBERT's release on the hub
        _require(self.kind in ("Unigram", "WordPiece"), f"a model of the type {self.kind}")
        _require(kinds in ([["BertPreTokenizer"]] if self.wordpiece else [["Metaspace"], ["WhitespaceSplit", "Metaspace"]]),
                 f"{self.kind} with the pre_tokenizer {' and '.join(map(str, kinds))}")
        _require(self.wordpiece or steps[-1].get("prepend_scheme", "always") == "always"
                 and steps[-1].get("add_prefix_space", True) and steps[-1].get("split", True),
                 "a Metaspace that is not put before every word")
        _require(not model.get("byte_fallback"), "byte_fallback")
        _require(not any(token["normalized"] or token["single_word"] or " " in token["content"] for token in added),
                 "an added token that is normalised, a single word, or holds a blank")
        if self.wordpiece:
            self.ids = dict(model["vocab"])
            self.unknown = self.ids[model["unk_token"]]
        else:
            self.ids = {piece: index for index, (piece, _) in enumerate(model["vocab"])}
            self.scores = {piece: score for piece, score in model["vocab"]}
            self.longest = max(map(len, self.scores))
            self.unknown = model["unk_id"]
            self.unknown_score = min(self.scores.values()) - UNKNOWN_PENALTY
        self.added = {token["content"]: token["id"] for token in added}
        self.pieces = {index: piece for piece, index in (self.ids | self.added).items()}
        self.special = {token["id"] for token in added if token["special"]}
        self.normalize = make_normalizer(config["normalizer"])
        longest_first_of_all = sorted(added, key=lambda token: -len(token["content"]))
        self._added_token = re.compile("|".join(
            (f"[{WHITE_SPACE}]*" if token["lstrip"] else "") + "(" + re.escape(token["content"]) + ")"
            + (f"[{WHITE_SPACE}]*" if token["rstrip"] else "") for token in longest_first_of_all) or r"(?!)")

    def words(self, text: str) -> list[str]:
        """Pre-tokenisation: the words of a normalised text, those of Unigram with ``▁`` in front."""
        if self.wordpiece:
            return bert_words(text)
        parts = re.split(f"[{WHITE_SPACE}]+", text) if self.strips else [text]
        return [word for part in parts for word in metaspace(part)]

    def segment(self, word: str) -> list[int]:
        """Ids of the pieces of a word."""
        if self.wordpiece:
            model = self.config["model"]
            pieces = longest_first(word, self.ids, model["continuing_subword_prefix"],
                                   model["max_input_chars_per_word"])
            return [self.unknown] if pieces is None else [self.ids[piece] for piece in pieces]
        path, _ = viterbi(lattice(word, self.scores, self.longest, self.unknown_score), len(word))
        ids = [self.ids.get(piece, self.unknown) for _, _, piece, _ in path]
        # Unknown characters in a row are one token.
        return [index for index, before in zip(ids, [None, *ids]) if not index == before == self.unknown]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens around it; a special token that it spells out keeps its id."""
        ids, start = [], 0
        for match in self._added_token.finditer(text):
            ids += self._encode_ordinary(text[start:match.start()])
            ids.append(self.added[match[match.lastindex]])
            start = match.end()
        return ids + self._encode_ordinary(text[start:])

    def _encode_ordinary(self, text: str) -> list[int]:
        return [index for word in self.words(self.normalize(text)) for index in self.segment(word)]

    def to_str(self, pretty: bool = False) -> str:
        """The tokenizer.json, character for character as 🤗 Tokenizers writes it."""
        layout = dict(indent=2) if pretty else dict(separators=(",", ":"))
        return json.dumps(self.config, ensure_ascii=False, **layout)

    def get_vocab_size(self) -> int:
        """The embeddings that the ids need: the highest one and 1."""
        return max(self.get_vocab().values()) + 1

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        return self.ids | self.added if with_added_tokens else dict(self.ids)

    def token_to_id(self, piece: str) -> int | None:
        return self.added.get(piece, self.ids.get(piece))

    def id_to_token(self, index: int) -> str | None:
        return self.pieces.get(index)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise DataError(f"tokenizer.json: {what}: the native pipeline has no such thing; --preprocess fast reads it")


def metaspace(text: str) -> list[str]:
    """Blanks become ``▁``, one stands in front, and each begins a word: "a  b" is ▁a, ▁, ▁b."""
    if not text:
        return []
    text = text.replace(" ", "▁")
    return re.findall("▁?[^▁]*", text if text.startswith("▁") else "▁" + text)[:-1]


def special_ids(tokenizer: Tokenizer) -> SimpleNamespace:
    """Ids ``pad``, ``unk``, ``cls``, ``sep``, ``mask``; DataError for any that is missing."""
    found = {}
    for names in SPECIALS:
        ids = [tokenizer.token_to_id(name) for name in names if tokenizer.token_to_id(name) is not None]
        if not ids:
            raise DataError(f"the tokenizer has no token {' or '.join(names)}; ALBERT and BERT need it")
        found[names[0].strip("[]<>").lower()] = ids[0]
    return SimpleNamespace(**found)


def word_starts(tokenizer: Tokenizer) -> list[bool]:
    """Whether each piece begins a word, by id, for masking by whole words.

    WordPiece: a piece without ``##``. Unigram (``_is_start_piece_sp`` of ALBERT's release): every piece but those made
    of letters, of a script with blanks between its words, and the punctuation that joins them, with at least one letter.
    """
    pieces = [tokenizer.id_to_token(index) or "" for index in range(tokenizer.get_vocab_size())]
    if tokenizer.wordpiece:
        prefix = tokenizer.config["model"]["continuing_subword_prefix"]
        return [not (prefix and piece.startswith(prefix)) for piece in pieces]
    # The release takes ' < = > for no punctuation: they begin a word wherever they occur.
    joining = str.maketrans("", "", r"""!"#$%&()*+,-./:;?@[\]^_`{|}~€£""")
    specials = {name for names in SPECIALS for name in names}
    return [piece in specials or not is_word(piece.translate(joining)) for piece in pieces]


def is_word(text: str) -> bool:
    """Whether it is letters, with their marks and joiners, of a script that parts words by blanks; at least one."""
    return text != "" and all(c in JOINERS or unicodedata.category(c)[0] in "LM" for c in text) and not WITHOUT_BLANKS.search(text)
