"""A SentencePiece model's own normalisation: the precompiled character map.

The map is a double-array trie (Aoe 1989; the layout of the Darts-clone library), whose keys are UTF-8 strings and
whose values are places in a table of replacements.
"""
import struct
import unicodedata


def read_charsmap(blob: bytes) -> tuple[tuple[int, ...], bytes]:
    """``(trie, replacements)``: 32-bit units, and UTF-8 strings that end in a zero byte."""
    size, = struct.unpack_from("<I", blob)
    return struct.unpack_from(f"<{size // 4}I", blob, 4), blob[4 + size:]


def find_prefix(trie: tuple[int, ...], text: bytes) -> int | None:
    """The value of the shortest key that ``text`` begins with.

    A unit holds its byte (bits 0 to 7), whether a key ends at its child (bit 8), and the distance to its children
    (bits 10 to 30, times 256 where bit 9 is set). A unit with bit 31 is a value.
    """
    node, unit = 0, trie[0]
    for byte in text:
        if byte == 0:
            return None
        node ^= _distance(unit) ^ byte
        unit = trie[node]
        if unit & 0x800000FF != byte:
            return None
        if unit >> 8 & 1:
            return trie[node ^ _distance(unit)] & 0x7FFFFFFF
    return None


def _distance(unit: int) -> int:
    return (unit >> 10) << (8 if unit & (1 << 9) else 0)


def replace_by_charsmap(text: str, trie: tuple[int, ...], replacements: bytes) -> str:
    """``text`` with each mapped character replaced, in the manner of 🤗 Tokenizers.

    SentencePiece takes the longest key at each place. 🤗 Tokenizers looks at user-perceived characters: one of fewer
    than 6 bytes is replaced *as a whole* by the value of the *shortest* key it begins with; in a longer or unknown one
    each code point is replaced by itself.
    """
    def replaced(part: str) -> str | None:
        place = find_prefix(trie, part.encode())
        if place is None:
            return None
        return replacements[place:replacements.index(0, place)].decode()

    parts = []
    for grapheme in graphemes(text):
        whole = replaced(grapheme) if len(grapheme.encode()) < 6 else None
        if whole is not None:
            parts.append(whole)
        else:
            parts += [character if (new := replaced(character)) is None else new for character in grapheme]
    return "".join(parts)


def graphemes(text: str) -> list[str]:
    """User-perceived characters (UAX 29, extended grapheme clusters), exact for those of fewer than 6 bytes.

    CR LF is one; marks, joiners and skin tones stay with what they follow, unless that is a control character; the
    Arabic and Syriac signs that stand in front of a number stay with what follows.
    """
    parts: list[str] = []
    for character in text:
        before = parts[-1][-1] if parts else "\n"
        follows = (unicodedata.category(character)[0] == "M" or character in "\u200c\u200d\uff9e\uff9f"
                   or "\U0001f3fb" <= character <= "\U0001f3ff" or "\U000e0020" <= character <= "\U000e007f")
        joined = (before in _PREPENDED and not _is_boundary(character)) or (follows and not _is_boundary(before))
        if joined or before + character == "\r\n":
            parts[-1] += character
        else:
            parts.append(character)
    return parts


_PREPENDED = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"


def _is_boundary(character: str) -> bool:
    """Whether a break stands on both sides, whatever the neighbours: controls and line ends."""
    return (unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp")
            and character not in "\u200c\u200d" + _PREPENDED and not "\U000e0020" <= character <= "\U000e007f")
