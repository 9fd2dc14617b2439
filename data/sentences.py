"""Paragraphs to sentences, the one step that both preprocessing pipelines share."""
import importlib.metadata
import re

from sentencex import segment

from data.errors import DataError

LONGEST = 1000         # characters of a sentence; of text without sentence ends, a part to be read as one
UNPARTED = 10_000      # characters of a text of Chinese sentences, for whose count the splitter takes quadratic time
_CHINESE_END = re.compile("[。！？](?![」』）”’])")
SPLITTER = f"sentencex {importlib.metadata.version('sentencex')}, at most {LONGEST} characters"
JOINERS = "\u200c\u200d"               # zero width non-joiner and joiner, within words of Sinhala, Persian, Hindi and others
# Thai, Lao, Tibetan, Burmese; Khmer; Chinese, Japanese, Yi: scripts without blanks between the words
WITHOUT_BLANKS = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff]")

# Codes of countries, and of three letters, of which the splitter would know no rules and say nothing.
_MISTAKEN_LANGUAGES = dict(pair.split(":") for pair in (
    "jp:ja kr:ko cn:zh gr:el cz:cs dk:da ua:uk eng:en deu:de ger:de fra:fr fre:fr spa:es ita:it por:pt rus:ru jpn:ja kor:ko "
    "zho:zh chi:zh ara:ar hin:hi tur:tr nld:nl dut:nl pol:pl ukr:uk ces:cs cze:cs ell:el gre:el dan:da swe:sv fin:fi nor:no "
    "hun:hu ron:ro rum:ro bul:bg heb:he fas:fa per:fa urd:ur ben:bn tam:ta tel:te mar:mr vie:vi tha:th ind:id").split())


def check_language(code: str) -> None:
    """Raise DataError for what is no code of a language, or surely meant another."""
    if not re.fullmatch(r"[a-z]{2,3}(-[a-z-]+)?", code):
        raise DataError(f"language={code}: write its code, such as en, de or zh")
    if meant := _MISTAKEN_LANGUAGES.get(code):
        raise DataError(f"language={code}: the language with the code {meant} is meant; --set language={meant}")


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
