"""The native pipeline: from text to batches in plain Python, to read and to trust.

With one vocabulary it makes what the fast pipeline makes, byte for byte (but for the code points of docs/native.md), and
shares with it nothing but the splitting of sentences, the folders of the cache and the class of errors; the script opens the
files. In the order of the text's way:

normalization, charsmap   Unicode normalisation as a tokenizer.json or SentencePiece model says
tokenizer                 words and pieces: unigram (lattice, Viterbi), wordpiece (greedy)
vocabulary, trainer       vocabularies read from files, and trained
store                     the corpus as ids on disk
examples, chance          segment pairs, masks, batches; random numbers
"""
from data.native.examples import PretrainingExamples
from data.native.store import prepare
from data.native.tokenizer import special_ids, word_starts

__all__ = ["PretrainingExamples", "prepare", "special_ids", "word_starts"]
