"""The words of a text that is to be tagged, and the entities that their labels make."""
import re
import unicodedata

OF_ENTITIES = ("B-", "I-", "E-", "S-", "L-", "U-")    # other tags, such as parts of speech, stand each for its word
IDEOGRAPHS = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


class Words(str):
    """A text that was given as its words: one blank lies between them, and they are not cut further."""


def word_spans(text: str) -> list[tuple[int, int]]:
    """(first, end) of each word: letters and digits with their marks, also on both sides of a hyphen or slash (Rome-Paris),
    numbers with their points (1,000.5), initials (J., U.N.), English endings ('s); stops or hyphens in a row; a Chinese or
    Japanese character; any other character that is no blank. Of `Words` those that were given."""
    if isinstance(text, Words):
        return [word.span() for word in re.finditer("[^ ]+", text)]
    words, goes_on = [], False                                  # whether the last word may go on
    for place, character in enumerate(text):
        before, after = text[place - 1:place], text[place + 1:place + 2]
        category = unicodedata.category(character)
        if character.isspace():
            goes_on = False
        elif category[0] == "M" or category == "Cf":             # of the character before
            if words and words[-1][1] == place:
                words[-1][1] += 1
        elif character.isalnum() or character == "_":
            alone = IDEOGRAPHS.match(character)
            if goes_on and not alone:
                words[-1][1] = place + 1
            else:
                words.append([place, place + 1])
            goes_on = not alone
        elif character == before and character in "-." and not goes_on:
            words[-1][1] = place + 1
        elif goes_on and (character in "-/" and after.isalnum()
                          or character in ".,:" and before.isdigit() and after.isdigit()
                          or character == "." and re.match(r"[^\W\d_]", before)
                          and (text[place - 2] == "." if place - words[-1][0] > 1 else before.isupper() or after.isalpha())):
            words[-1][1] = place + 1
        else:
            words.append([place, place + 1])
            goes_on = re.match(r"['’](s|re|ve|ll|d|m|t)\b", text[place:place + 4], re.IGNORECASE) is not None
    return [tuple(word) for word in words]


def joined(text: str, spans: list[tuple[int, int]], found: dict[int, tuple]) -> list[dict]:
    """The entities of a text whose words are at ``spans``: [{"label", "text", "start", "end", "probability"}].

    found: word to (how far from its window's ends, label, probability); a word that is not there has O. Labels of entities
    (IOB, BIOES, BILOU) are joined as fine-tuning's scores count them, with the least probability of their words; of other
    labels each word but one with O is one.
    """
    entities, goes_on = [], None                     # the kind and the word that would lengthen the last entity
    for word, (start, end) in enumerate(spans):
        _, label, probability = found.get(word, (0, "O", 1.0))
        mark, _, kind = label.partition("-")
        if label == "O":
            continue
        if mark in ("I", "E", "L") and (kind, word) == goes_on:
            entities[-1].update(end=end, text=text[entities[-1]["start"]:end],
                                probability=min(entities[-1]["probability"], probability))
        else:
            entities.append({"label": kind if kind and label.startswith(OF_ENTITIES) else label, "text": text[start:end],
                             "start": start, "end": end, "probability": probability})
        goes_on = (kind, word + 1) if kind and mark in ("B", "I") else None
    return entities
