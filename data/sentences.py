"""Paragraphs to sentences, the one step that both preprocessing pipelines share."""
import importlib.metadata
import re

from sentencex import segment

LONGEST = 1000         # characters of a sentence; of text without sentence ends, a part to be read as one
UNPARTED = 10_000      # characters of a text of Chinese sentences, for whose count the splitter takes quadratic time
_CHINESE_END = re.compile("[。！？](?![」』）”’])")
SPLITTER = f"sentencex {importlib.metadata.version('sentencex')}, at most {LONGEST} characters"
JOINERS = "\u200c\u200d"               # zero width non-joiner and joiner, within words of Sinhala, Persian, Hindi and others
# Thai, Lao, Tibetan, Burmese; Khmer; Chinese, Japanese, Yi: scripts without blanks between the words
WITHOUT_BLANKS = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff]")


def split_sentences(paragraph: str, language: str = "en") -> list[str]:
    """Sentences of a paragraph, in order, without outer white space; none is empty. One that is longer than `LONGEST` is
    cut, at a blank where there is one. language: its code in Wikipedia's list, such as en, de or zh."""
    sentences = (sentence.strip() for part in _short_enough(paragraph) for sentence in segment(language, part))
    return [part for sentence in sentences for part in _parts(sentence)]


def _short_enough(paragraph: str):
    while len(paragraph) > UNPARTED:
        ends = [match.end() for match in _CHINESE_END.finditer(paragraph, 0, UNPARTED) if match.end() < UNPARTED]
        if not ends:
            break
        yield paragraph[:ends[-1]]
        paragraph = paragraph[ends[-1]:]
    yield paragraph


def _parts(sentence: str):
    while len(sentence) > LONGEST:
        end = sentence.rfind(" ", 1, LONGEST + 1)
        end = end if end > 0 else LONGEST
        yield sentence[:end]
        sentence = sentence[end:].lstrip()
    if sentence:
        yield sentence
