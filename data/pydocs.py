"""English prose from the documentation of the Python that runs: its standard library, the `pydoc` topics, and
the packages that requirements.txt names with what they require. Sources are read, never imported."""

import ast
import hashlib
import importlib.metadata
import inspect
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePath

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "_internal", "_vendor"}
MIN_WORDS = 8

# Python's comments and strings, triple-quoted ones as group 1; parsing whole modules takes twice as long.
LONG = "|".join(r"QQQ[^Q\\]*(?:(?:\\.|Q(?!QQ))[^Q\\]*)*QQQ".replace("Q", quote) for quote in "\"'")
SHORT = "|".join(r"Q(?:[^Q\\\n]|\\.)*Q".replace("Q", quote) for quote in "\"'")
LEXEME = re.compile(rf"#[^\n]*|({LONG})|{SHORT}", re.DOTALL)
# Directives whose indented content is no prose; that of any other (note, warning, ...) is kept.
CODE_DIRECTIVE = re.compile(
    r"\.\. *(code|code-block|sourcecode|ipython|math|plot|testcode|testsetup|testoutput|doctest|"
    r"parsed-literal|productionlist|auto\w+|currentmodule|table|list-table|csv-table|figure|image|toctree|"
    r"include|only|literalinclude|highlight|index|seealso|envvar|_[^:]+:|\[[#\w]+\]|\|)"
)
DIRECTIVE = re.compile(r"\.\. *[\w:-]+:: *(?:\d[\w.]*)?\s*")
UNDERLINE = re.compile(r"([-=~^*\"'`#+_.:])\1{2,}$")
BULLET = re.compile(r"(?:[-*+] |\(?\d{1,2}[.)] |\(?[a-z]\) |#\. )\s*")
TYPED_FIELD = re.compile(r"[*`]*\w[\w.*`, ]*[ `]: ?\S.*(?<![.!?])$")  # numpydoc's `axis : int, optional`
FIELD = re.compile(r":\w+(?: [^:]+)?: *|@\w+:? +|[*`'\"]*\w[\w.]*[*`'\"]*(?: ?\([^)]*\))?(?:| -|-)[:-] +")
TYPE = re.compile(  # a type that leads a description: `int, optional The width`
    r"(?:[a-z][\w.-]*,? (?:or |of )?){1,3}"
    r"(?=(?:The|An?|If|How|Whether|When|Where|This|These|Only|All|Each|Any|Name|Number|List|Used?|Set|"
    r"Additional|Optional|Keyword|Specifies|Determines|Controls|Can|Default)\b )"
)
MARKUP = (
    (re.compile(r":[\w:+-]+:`[~!.]*([^`<]+?)(?: *<[^`>]*>)?`"), r"\1"),  # :class:`~a.B`, :ref:`text <target>`
    (re.compile(r"`([^`<]+?) *<[^`>]*>`__?"), r"\1"),  # `text <address>`_
    (re.compile(r"\[([^\]]+)\]\(\S+\)"), r"\1"),  # [text](address)
    (re.compile(r"``?[~!.]*([^`]+)``?_{0,2}"), r"\1"),
    (re.compile(r"(?<![\w*])(\*\*?)([\w(][^*]*?)\1(?![\w*])"), r"\2"),
    (re.compile(r" ?\[[#\d]\w*\]_?"), ""),  # footnotes and citations
    (re.compile(r"\|(\w+)\|_?"), r"\1"),
    (re.compile(r"(?<=\w)__?(?=[\s,.;:)]|$)"), ""),
)
MARKED = re.compile(r"[`*\[|_]")
QUOTES = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")
STARTED = re.compile(r"[\"'(]?[A-Z]")
ENDED = re.compile(r"[.!?][\"')`]*$")
CODE = re.compile(
    r">>>|[$\\{}|@^`]|[=<>~*]{2}|https?:|\b(?:def|import|self)\b[ (]|\breturn \w+\(|\w\(\w+=|__\w+__|::|\+-|"
    r" [.,;:)]|\( |\.\.\.|\[\w*\]|TODO|Copyright|^(?:If|When) [^,]*$"
)
ODD = re.compile(r"[_=(\[/<>*+#~&%]|\w\.\w|\b\d")
WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
COMMON = set(
    "a an the of to in is are be been was were and or not no if it its this that these those with "
    "for from by as on at which when where then than into will would can may must should has have "
    "had do does you your we they each any all one only also but so such there how what other same "
    "used use using whether between".split()
)


def paragraphs() -> Iterator[tuple[bool, str]]:
    """Yields (starts_document, paragraph): a module is a document, a paragraph appears once in all."""
    return iter(gathered())


def fingerprint() -> dict:
    """What decides the text: the versions of Python, of the packages and of these rules."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages()},
        "rules": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }


@cache
def gathered() -> tuple[tuple[bool, str], ...]:
    seen: set[str] = set()
    found = []
    for path in modules():
        starts = True
        for docstring in docstrings(path):
            for paragraph in prose(docstring, seen):
                found.append((starts, paragraph))
                starts = False
    return tuple(found)


def modules() -> Iterator[Path]:
    """The `.py` files read: the standard library's and those of the packages, each sorted."""
    library = Path(sysconfig.get_path("stdlib"))
    yield from (path for path in sorted(library.rglob("*.py")) if wanted(path.relative_to(library)))
    for name in packages():
        yield from sorted(Path(f.locate()) for f in importlib.metadata.files(name) or [] if wanted(f))


def wanted(path: PurePath) -> bool:
    return path.suffix == ".py" and SKIPPED_FOLDERS.isdisjoint(path.parts)


def packages() -> tuple[str, ...]:
    """The installed ones of the packages that requirements.txt names and that those require, sorted."""
    found = set()
    open_ = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    while open_:
        requirement = re.match(r"[A-Za-z0-9][\w.-]*", open_.pop())
        name = requirement and re.sub(r"[-_.]+", "-", requirement[0]).lower()
        if name and name not in found and any(importlib.metadata.distributions(name=name)):
            found.add(name)
            required = importlib.metadata.requires(name) or []
            open_ += (line for line in required if "extra" not in line.partition(";")[2])
    return tuple(sorted(found))


def docstrings(path: Path) -> Iterator[str]:
    """The documentation strings of a module; arguments such as `add_docstr`'s on a line of their own too."""
    source = path.read_text(encoding="utf-8", errors="replace")
    if '"""' not in source and "'''" not in source:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        if path.parent.name == "pydoc_data":
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Dict):
                    yield from map(ast.literal_eval, node.values)
        for lexeme in LEXEME.finditer(source):
            if not lexeme[1] or len(lexeme[1]) < 4 * MIN_WORDS:
                continue
            before = source[source.rfind("\n", 0, lexeme.start()) + 1 : lexeme.start()].strip()
            if before in ("", "r", "R"):
                try:
                    yield ast.literal_eval(before + lexeme[1])
                except (SyntaxError, ValueError):
                    pass  # an escape that is none, in a template


def prose(docstring: str, seen: set[str]) -> Iterator[str]:
    """The paragraphs of a docstring that read as English, without markup, white space folded; what they said,
    letters alone, is added to `seen`, and what is there is left out."""
    for candidate in candidates(inspect.cleandoc(docstring).splitlines()):
        if len(candidate) < 4 * MIN_WORDS or not ENDED.search(candidate) or candidate in seen:
            continue
        seen.add(candidate)
        text = plain(candidate)
        words = WORD.findall(text.lower())
        key = " ".join(words)
        if key not in seen and readable(text, words):
            seen.add(key)
            yield text


def candidates(lines: list[str]) -> Iterator[str]:
    """Runs of lines that belong together: at one indentation, an item or field on its own; code left out."""
    run: list[str] = []
    hangs = False  # the run is an item, whose further lines are indented
    run_indent = 0
    code_indent = None  # lines deeper than this are code
    doctest = False  # up to the next blank line
    for line in lines:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        doctest = text.startswith(">>>") or doctest and bool(text)
        if doctest:
            run = []
            continue
        if text and code_indent is not None:
            if indent > code_indent:
                continue
            code_indent = None
        if text and not text[0].isalnum() and UNDERLINE.match(text):
            run = []  # the line above is a heading
            continue
        item = BULLET.match(text) or (":" in text or "--" in text or " - " in text) and FIELD.match(text)
        if run and (not text or item or text.startswith("..") or indent != run_indent):
            if text and not item and hangs and indent > run_indent:
                run_indent, hangs = indent, False
            else:
                yield " ".join(run)
                run = []
        if not text or not run and ":" in text and TYPED_FIELD.match(text):
            continue
        if CODE_DIRECTIVE.match(text):
            code_indent = indent
            continue
        if text.startswith(".."):
            text = DIRECTIVE.sub("", text, count=1)
            if not text or text.startswith(".."):
                continue
        if not run:
            run_indent, hangs = indent, bool(item)
        run.append(text)
        if text.endswith("::"):
            run = []
            code_indent = indent
    yield " ".join(run)


def plain(text: str) -> str:
    """The paragraph without bullet, field name and inline markup, its first letter a capital."""
    bullet = BULLET.match(text)
    text = text[bullet.end():] if bullet else text
    field = FIELD.match(text)
    text = text[field.end():] if field else text
    type_ = TYPE.match(text)
    text = text[type_.end():] if type_ else text
    if MARKED.search(text):
        for pattern, replacement in MARKUP:
            text = pattern.sub(replacement, text)
    text = " ".join(text.translate(QUOTES).split())
    return text[:1].upper() + text[1:]


def readable(text: str, words: list[str]) -> bool:
    if len(words) < MIN_WORDS or not text.isascii() or CODE.search(text) or not STARTED.match(text):
        return False
    common = sum(word in COMMON for word in words)
    letters = sum(map(len, words))
    odd = len(ODD.findall(text))
    return common >= 0.2 * len(words) and letters >= 0.72 * len(text) and odd <= 0.15 * len(text.split())
