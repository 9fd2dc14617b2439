"""The fast pipeline, under the names that ``data.native`` has too."""
from data.examples import PretrainingExamples
from data.store import prepare
from data.tokenizer import special_ids, word_starts

__all__ = ["PretrainingExamples", "prepare", "special_ids", "word_starts"]
