"""Paragraphs to sentences, the one step that both preprocessing pipelines share."""
import importlib.metadata

from sentencex import segment

SPLITTER = f"sentencex {importlib.metadata.version('sentencex')}"


def split_sentences(paragraph: str) -> list[str]:
    """Sentences of an English paragraph, in order, without outer white space; none is empty."""
    return [sentence for part in segment("en", paragraph) if (sentence := part.strip())]
