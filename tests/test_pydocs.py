import ast
import sys
import textwrap

import numpy
import pytest

from data import pydocs

DOCSTRING = '''
    Fits the ``model`` to the data that :class:`~package.Loader` yields, one batch after the other.

    Summary of the options
    ----------------------
    rate : float, optional
        The *learning rate* that the optimiser starts with, decayed to nothing at the end.
    size, width : int
        short

    :param steps: the number of updates that are made before the loop returns.
    :returns: None

    Use it as follows in the most common of all cases::

        loader = Loader(the_data, of_a_user, with_all_options=True)

    >>> fit(model, data)
    The output of the example is not a part of the prose.

    The loop can be stopped at any time with `Ctrl-C <keys.html>`_, and it keeps what it has done.

    .. code-block:: python

        This is a comment that stands in the code and should not be taken for text.

    .. note:: The random state is a part of what is kept, so that a run can be resumed.

    - An item of a list is a paragraph of its own,
      and it goes on in the next line.

    =======  ==========================================
    Column   The meaning of the column in the given file.
    =======  ==========================================

    alpha, beta, gamma, delta, epsilon, zeta, eta, theta, iota, kappa.

    Der Zug nach dem Norden fuhr heute wieder einmal ohne jeden Halt durch.

    The value is f(x) = x**2 + 1 if x > 0 else -x for any x in [-1, 1].

    The loop can be stopped at any time with Ctrl-C, and it keeps what it has done.
'''

PROSE = [
    "Fits the model to the data that package.Loader yields, one batch after the other.",
    "The learning rate that the optimiser starts with, decayed to nothing at the end.",
    "The number of updates that are made before the loop returns.",
    "The loop can be stopped at any time with Ctrl-C, and it keeps what it has done.",
    "The random state is a part of what is kept, so that a run can be resumed.",
    "An item of a list is a paragraph of its own, and it goes on in the next line.",
]


def test_prose_keeps_sentences_and_nothing_else():
    assert list(pydocs.prose(DOCSTRING, set())) == PROSE


def test_prose_says_nothing_twice():
    seen = set()
    assert list(pydocs.prose(DOCSTRING, seen)) == PROSE
    assert list(pydocs.prose(DOCSTRING, seen)) == []


def test_docstrings_are_those_that_ast_finds(tmp_path):
    source = textwrap.dedent('''
        # An unbalanced """ in a comment, and 'one' more
        """The docstring of the module is found."""
        text = """
        A string with a value, no documentation at all
        """
        quote = '"""'

        class Thing:
            r\'\'\'The docstring of the class, with a \\d in it.\'\'\'
            def method(self):
                """The docstring of the method, "quoted" and
                over two lines.\\n"""
                return """no documentation string here"""

        add_docstr(Thing, """
        An inline argument is not at the start of its line""")
        add_docstr(Thing,
                   """The argument of a call is found.""")
    ''')
    path = tmp_path / "module.py"
    path.write_text(source)
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
    expected = ["The docstring of the module is found."]
    expected += [ast.get_docstring(node, clean=False) for node in nodes]
    assert list(pydocs.docstrings(path)) == [*expected, "The argument of a call is found."]


def test_docstrings_of_a_standard_module_agree_with_ast():
    import argparse

    tree = ast.parse(open(argparse.__file__, encoding="utf-8").read())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
    expected = {ast.get_docstring(node, clean=False) or "" for node in nodes}
    found = set(pydocs.docstrings(pydocs.Path(argparse.__file__)))
    assert {text for text in expected if len(text) > 40} <= found


def test_topics_are_read():
    topics = next(path for path in pydocs.modules() if path.parts[-2:] == ("pydoc_data", "topics.py"))
    texts = [text for docstring in pydocs.docstrings(topics) for text in pydocs.prose(docstring, set())]
    assert any('"global" statement' in text for text in texts)
    assert len(texts) > 500


@pytest.fixture
def two_modules(tmp_path, monkeypatch):
    for name, sentence in (("a", "first"), ("b", "second")):
        (tmp_path / f"{name}.py").write_text(
            f'"""This is the {sentence} module of the two that the test has written.\n\n'
            'Both modules hold this sentence, of which only one is kept."""\nraise SystemExit("imported")\n'
        )
    (tmp_path / "c.py").write_text('"""Short."""')
    monkeypatch.setattr(pydocs, "modules", lambda: sorted(tmp_path.glob("*.py")))
    pydocs.gathered.cache_clear()
    yield
    pydocs.gathered.cache_clear()


def test_a_module_is_a_document(two_modules):
    assert list(pydocs.paragraphs()) == [
        (True, "This is the first module of the two that the test has written."),
        (False, "Both modules hold this sentence, of which only one is kept."),
        (True, "This is the second module of the two that the test has written."),
    ]


def test_packages_are_those_of_the_requirements(tmp_path, monkeypatch):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# a comment\nnumpy>=1\nnot-installed-anywhere==1\n")
    monkeypatch.setattr(pydocs, "REQUIREMENTS", requirements)
    assert pydocs.packages() == ("numpy",)
    fingerprint = pydocs.fingerprint()
    assert fingerprint["python"] == sys.version.split()[0]
    assert fingerprint["packages"] == {"numpy": numpy.__version__}


def test_required_packages_of_required_packages_count():
    assert {"torch", "networkx", "numpy"} <= set(pydocs.packages())  # torch requires networkx


@pytest.mark.slow
def test_the_whole_corpus_is_large_and_clean():
    found = list(pydocs.paragraphs())
    texts = [text for _, text in found]
    assert sum(map(len, texts)) > 5_000_000
    assert sum(starts for starts, _ in found) > 2_000
    assert len(set(texts)) == len(texts)
    assert not any(mark in text for text in texts for mark in (">>>", "``", ":class:", "::", "https:", "\n"))
