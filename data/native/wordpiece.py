"""BERT's words and their pieces (tokenization.py of BERT's release; Wu et al. 2016)."""
import string
import unicodedata

from data.native.normalization import WHITE_SPACE


def bert_words(text: str) -> list[str]:
    """Split at white space; each punctuation mark (category P, and all of ASCII's symbols) is a word of its own."""
    words, open_word = [], False
    for character in text:
        if character in WHITE_SPACE:
            open_word = False
        elif character in string.punctuation or unicodedata.category(character)[0] == "P":
            words.append(character)
            open_word = False
        elif open_word:
            words[-1] += character
        else:
            words.append(character)
            open_word = True
    return words


def longest_first(word: str, vocabulary: dict[str, int], prefix: str = "##", most: int = 100) -> list[str] | None:
    """Greedy segmentation: the longest piece that ``word`` begins with, then that of the rest with ``prefix``, ...

    None where no piece fits or the word has more than ``most`` characters: the whole word is unknown then.
    """
    if len(word) > most:
        return None
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = (prefix if start else "") + word[start:end]
            if piece in vocabulary:
                break
        else:
            return None
        pieces.append(piece)
        start = end
    return pieces
