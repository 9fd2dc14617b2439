"""Where Python's Unicode and that of 🤗 Tokenizers differ: writes data/native/unicode_differences.json.

    python tests/unicode_differences.py [python3.10 python3.12 ...]

Each step of the normalisation is given every code point between two letters. The table holds the code points where
its answers differ, as hexadecimal ranges, for the Unicode version of this Python and of the others named.
"""
import json
import subprocess
import sys
import types
import unicodedata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "data" / "native" / "unicode_differences.json"
POINTS = [point for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000 and chr(point) != "|"]
STEPS = [{"type": kind} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "StripAccents", "Lowercase")]
STEPS += [{"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": True,
           "lowercase": True}, {"type": "Strip", "strip_left": True, "strip_right": True},
          {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}]


def native_steps():
    """Name to function from text to text."""
    if "data.native" not in sys.modules:      # other interpreters have no numpy, which the package as a whole needs
        sys.path.insert(0, str(ROOT))
        package = sys.modules["data.native"] = types.ModuleType("data.native")
        package.__path__ = [str(ROOT / "data" / "native")]
    from data.native.normalization import make_normalizer
    from data.native.wordpiece import bert_words
    steps = {step["type"]: make_normalizer(step) for step in STEPS}
    return steps | {"BertPreTokenizer": lambda text: " ".join(bert_words(text))}


def library_steps():
    from tokenizers import Regex, normalizers, pre_tokenizers
    words = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    steps = {step["type"]: getattr(normalizers, step["type"])().normalize_str for step in STEPS[:-1]}
    steps["Replace"] = normalizers.Replace(Regex(r"\s+"), " ").normalize_str
    return steps | {"BertPreTokenizer": lambda text: " ".join(word for word, _ in words(text))}


def answers(steps, points=POINTS):
    """What each step makes of "a", the code point, "b": only where this is not what went in."""
    made = {}
    for name, step in steps.items():
        made[name] = {}
        for first in range(0, len(points), 1000):
            part = points[first:first + 1000]
            texts = [f"a{chr(point)}b" for point in part]
            results = [step(text) for text in texts]
            made[name] |= {point: result for point, text, result in zip(part, texts, results) if text != result}
    return made


def differences(mine, theirs):
    """Step to the code points on which two sets of answers differ."""
    return {name: {point for point in mine[name].keys() | theirs[name] if mine[name].get(point) != theirs[name].get(point)}
            for name in theirs}


def ranges(points):
    found = []
    for point in sorted(points):
        if found and point == found[-1][1] + 1:
            found[-1][1] = point
        else:
            found.append([point, point])
    return " ".join(f"{a:x}" if a == b else f"{a:x}-{b:x}" for a, b in found)


def listed(version=unicodedata.unidata_version):
    """The code points that the table has for each step, for a Unicode version; None where it does not know that."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return listed_in(table[version]) if version in table else None


def listed_in(table):
    return {name: {point for part in text.split()
                   for point in range(int(part.split("-")[0], 16), int(part.split("-")[-1], 16) + 1)}
            for name, text in table.items()}


def main():
    if sys.argv[1:] == ["--answers"]:
        made = answers(native_steps())
        print(json.dumps([unicodedata.unidata_version, made]))
        return
    import tokenizers
    theirs = answers(library_steps())
    table = {}
    for interpreter in (sys.executable, *sys.argv[1:]):
        run = subprocess.run([interpreter, __file__, "--answers"], capture_output=True, check=True, text=True)
        version, made = json.loads(run.stdout)
        made = {name: {int(point): text for point, text in found.items()} for name, found in made.items()}
        table[version] = {name: ranges(points) for name, points in differences(made, theirs).items() if points}
        print(f"Unicode {version}: {len(set().union(*listed_in(table[version]).values())):,} code points")
    TABLE.write_text(json.dumps({"tokenizers": tokenizers.__version__, **dict(sorted(table.items()))}, indent=1) + "\n",
                     encoding="utf-8")


if __name__ == "__main__":
    main()
