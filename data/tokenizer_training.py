"""Train the vocabulary of a tokenizer: Unigram for ALBERT, WordPiece for BERT."""
import heapq
import io
import random
import re
import string
from collections import Counter
from collections.abc import Iterable
from functools import partial

from tokenizers import Tokenizer

from data.errors import DataError
from data.tokenizer import ALBERT_SPECIALS, BERT_SPECIALS, albert_tokenizer, bert_tokenizer

SAMPLE_BYTES = 50_000_000   # SentencePiece takes about 20 bytes of memory for each
CHARACTER_COVERAGE = 0.99995  # as ALBERT's vocabulary was trained; the rarest characters become <unk>,
REQUIRED_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation  # but never these
LONGEST_WORD = 1 << 20  # bytes: in Chinese a paragraph has no blank; SentencePiece passes over what is longer
TRAINER_THREADS = 4  # a constant: sums of another number of parts round otherwise
# whose vowels or tones are marks; of Korean the letters of a syllable would stand alone
MARKED_LANGUAGES = frozenset(
    "as bh bn bo dv dz gom gu hi ja km kn ko lo mai ml mr my ne new or pa pi sa sat si ta te th vi".split())


def train_tokenizer(paragraphs: Iterable[str], kind: str, vocab_size: int, seed: int, progress: bool = True,
                    lower_case: bool = True, strip_accents: bool = True) -> Tokenizer:
    """Train a tokenizer of `kind` "unigram" (ALBERT) or "wordpiece" (BERT) with up to `vocab_size` pieces, of text in
    lower case and without accents unless they are to stay.

    The same paragraphs in the same order and the same seed give the same vocabulary, on any machine.
    🤗 Tokenizers' trainers don't: they visit words in random order, so scores differ by 3e-4 from run to run.
    SentencePiece's, fed with sorted word counts and a fixed number of threads, do, and are faster.
    A small text yields fewer pieces. DataError where there is no text, or where
    `vocab_size` is too small for the characters of the text.
    """
    if kind not in ("unigram", "wordpiece"):
        raise DataError(f"unknown kind of tokenizer {kind!r}: take 'unigram' or 'wordpiece'")
    unigram = partial(albert_tokenizer, unk_id=1, lower=lower_case, keep_accents=not strip_accents)
    wordpiece = partial(bert_tokenizer, lower=lower_case, strip_accents=strip_accents)
    blank = (unigram([(token, 0.0) for token in ALBERT_SPECIALS]) if kind == "unigram" else
             wordpiece({token: index for index, token in enumerate(BERT_SPECIALS)}))
    counts = _count_words(_sample(paragraphs, seed), blank)
    if not counts:
        raise DataError("no text to train a tokenizer on")
    if progress:
        print(f"training a {kind} vocabulary of {vocab_size:,} pieces on {len(counts):,} different words")
    if kind == "unigram":
        pieces = _train_sentencepiece(counts, "unigram", vocab_size, len(ALBERT_SPECIALS))
        # Rounded, since the last digits depend on the machine's logarithm.
        scored = sorted((-round(piece.score, 4), piece.piece) for piece in pieces)
        vocabulary = [(token, 0.0) for token in ALBERT_SPECIALS] + [(piece, -loss) for loss, piece in scored]
        return unigram(vocabulary)
    pieces = [piece.piece for piece in _train_sentencepiece(counts, "bpe", vocab_size, 0)]
    # Every character can begin a word or go on with one; then the merges, the most frequent first.
    characters = sorted({piece for piece in pieces if len(piece) == 1} - {"▁"})
    vocabulary = list(BERT_SPECIALS) + characters + [f"##{character}" for character in characters]
    if len(vocabulary) > vocab_size:
        raise DataError(f"vocab_size={vocab_size} is too small for the {len(characters)} different "
                        f"characters of this text: --set vocab_size={len(vocabulary)} or more works")
    vocabulary += [piece[1:] if piece.startswith("▁") else f"##{piece}" for piece in pieces if len(piece) > 1]
    unique = list(dict.fromkeys(vocabulary))[:vocab_size]
    return wordpiece({piece: index for index, piece in enumerate(unique)})


def _sample(paragraphs: Iterable[str], seed: int) -> Iterable[str]:
    """All paragraphs, or `SAMPLE_BYTES` of them chosen by chance; only these are held in memory."""
    chance, heap, size = random.Random(seed), [], 0
    for index, paragraph in enumerate(paragraphs):
        rank = chance.random()
        if size >= SAMPLE_BYTES and rank >= -heap[0][0]:
            continue
        text = paragraph.encode()
        heapq.heappush(heap, (-rank, index, text))
        size += len(text)
        while size > SAMPLE_BYTES:
            size -= len(heapq.heappop(heap)[2])
    return (paragraph.decode() for _, _, paragraph in heap)


def _count_words(paragraphs: Iterable[str], tokenizer: Tokenizer) -> dict[str, int]:
    """How often each word of the normalised and pre-tokenised text occurs."""
    raw = Counter()
    for paragraph in paragraphs:
        raw.update(paragraph.split())
    counts = Counter()
    for word, count in raw.items():
        for part, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(word)):
            counts[part.removeprefix("▁")] += count
    return counts


def _train_sentencepiece(counts: dict[str, int], model_type: str, vocab_size: int, specials: int) -> list:
    """The `vocab_size - specials` pieces (`piece`, `score`) of a SentencePiece model of the counted words."""
    import sentencepiece                 # here, as below: most starts do without it
    from sentencepiece import sentencepiece_model_pb2

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{word}\t{counts[word]}" for word in sorted(counts)), input_format="tsv",
            model_writer=model, model_type=model_type, max_sentence_length=LONGEST_WORD,
            vocab_size=vocab_size - specials + 1, hard_vocab_limit=False,
            character_coverage=CHARACTER_COVERAGE, required_chars=REQUIRED_CHARACTERS,
            normalization_rule_name="identity", num_threads=TRAINER_THREADS, minloglevel=2,
            unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1)
    except RuntimeError as error:
        too_few = re.search(r"smaller than required_chars. \d+ vs (\d+)", str(error))
        if too_few:
            characters = int(too_few[1]) - 2  # without <unk> and ▁
            raise DataError(
                f"vocab_size={vocab_size} is too small for the {characters} different characters of this "
                f"text and of ASCII, which each have a piece: --set vocab_size={2 * characters + 10} or more works"
            ) from None
        raise DataError(f"no vocabulary can be trained on this text ({error})") from None
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    return [piece for piece in proto.pieces if piece.type == piece.NORMAL]
