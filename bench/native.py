"""The native pipeline beside the fast one, 🤗 Tokenizers and SentencePiece: what reading ease costs, what it learns.

    python bench/native.py [--text FILE_OR_FOLDER] [--megabytes 10] [--vocab 8000] [--rounds 3] [--part all]

Part `train`: each trainer gets the same text, and its vocabulary is scored on held-out text: log P(text) in nats a
character, summed over all segmentations, the probabilities of the pieces made to sum to 1. Part `encode`: sentences to ids
with one vocabulary; every row's ids are compared with those of the first. All take turns; the best round counts.
"""
import argparse
import itertools
import math
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["TOKENIZERS_PARALLELISM"] = "true"


def read(files, limit):
    """Paragraphs from all files in turn, so that the text is mixed, up to ``limit`` bytes."""
    paragraphs, size = [], 0
    for lines in itertools.zip_longest(*[file.read_text(encoding="utf-8").splitlines() for file in files]):
        for line in filter(None, lines):
            if (line := line.strip()):
                paragraphs.append(line)
                size += len(line.encode())
                if size >= limit:
                    return paragraphs
    return paragraphs


def score(tokenizer, counts):
    """Log probability of counted words, nats a character."""
    import json

    from data.native.unigram import forward, lattice
    config = json.loads(tokenizer.to_str())
    special = {token["content"] for token in config["added_tokens"]}
    scores = {piece: score for piece, score in config["model"]["vocab"] if piece not in special}
    total = math.log(math.fsum(map(math.exp, scores.values())))
    scores = {piece: score - total for piece, score in scores.items()}
    longest, unknown = max(map(len, scores)), min(scores.values()) - 10
    logs = math.fsum(count * forward(lattice(word, scores, longest, unknown), len(word))[-1]
                     for word, count in counts.items())
    return logs / sum(len(word) * count for word, count in counts.items()), len(scores)


def train_huggingface(paragraphs, size, alphabet):
    from tokenizers import trainers

    from data.tokenizer import ALBERT_SPECIALS, albert_tokenizer
    tokenizer = albert_tokenizer([(token, 0.0) for token in ALBERT_SPECIALS], 1)
    tokenizer.train_from_iterator(paragraphs, trainers.UnigramTrainer(
        vocab_size=size, special_tokens=list(ALBERT_SPECIALS), unk_token="<unk>", initial_alphabet=list(alphabet),
        show_progress=False))
    return tokenizer


def training(train, heldout, options):
    from data.native.trainer import REQUIRED_CHARACTERS, count_words, train_tokenizer
    from data.native.vocabulary import ALBERT_SPECIALS, albert_tokenizer
    from data.tokenizer_training import train_tokenizer as train_fast
    megabytes = sum(len(text.encode()) for text in train) / 1e6
    counts = count_words(heldout, albert_tokenizer([(token, 0.0) for token in ALBERT_SPECIALS], 1))
    trainers = {"fast (SentencePiece)": lambda: train_fast(train, "unigram", options.vocab, 0, progress=False),
                "🤗 UnigramTrainer": lambda: train_huggingface(train, options.vocab, REQUIRED_CHARACTERS),
                "native": lambda: train_tokenizer(train, options.vocab, 0, progress=options.progress)}
    print(f"\n| training, {megabytes:.1f} MB | s | MB/s | pieces | held-out nats/character |\n|---|---|---|---|---|")
    for name, train_one in trainers.items():
        started = time.perf_counter()
        tokenizer = train_one()
        seconds = time.perf_counter() - started
        nats, pieces = score(tokenizer, counts)
        print(f"| {name} | {seconds:.1f} | {megabytes / seconds:.3f} | {pieces:,} | {nats:.4f} |", flush=True)


def encoding(texts, options):
    import numpy as np
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    from data.blocks import BlockEncoder, paragraph_blocks
    from data.native.store import Words
    from data.native.vocabulary import load_tokenizer
    from data.sentences import split_sentences
    from data.tokenizer_training import train_tokenizer as train_fast
    tokenizer = train_fast(texts, "unigram", options.vocab, 0, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokenizer.json")
        path.write_text(tokenizer.to_str(), encoding="utf-8")
        native = load_tokenizer(path)
    # SentencePiece gets the same pieces, and text that is normalised already.
    proto = sentencepiece_model_pb2.ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.UNIGRAM
    proto.normalizer_spec.add_dummy_prefix = proto.normalizer_spec.remove_extra_whitespaces = True
    for index, (piece, value) in enumerate(native.config["model"]["vocab"]):
        kind = proto.SentencePiece.UNKNOWN if index == 1 else proto.SentencePiece.CONTROL if index < 5 else 1
        proto.pieces.add(piece=piece, score=value, type=kind)
    model = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    sentences = [sentence for text in texts for sentence in split_sentences(text)]
    megabytes = sum(len(sentence.encode()) for sentence in sentences) / 1e6
    tenth = sentences[:len(sentences) // 10]

    def bare():
        parts = []
        for first in range(0, len(sentences), 1000):
            encoded = tokenizer.encode_batch_fast(sentences[first:first + 1000], add_special_tokens=False)
            parts += [row.ids for row in encoded]
        return np.concatenate([np.array(row, "<u2") for row in parts])

    def by_words():
        encode = BlockEncoder(tokenizer)
        return np.concatenate([np.frombuffer(b"".join(encode._by_word([text for _, text in block])[0]), "<u2")
                               for block in paragraph_blocks((False, sentence) for sentence in sentences)])

    def normalise():
        return [tokenizer.normalizer.normalize_str(sentence) for sentence in sentences]

    def by_sentencepiece(texts, threads):
        return np.concatenate([np.array(row, "<u2") for row in model.encode(texts, num_threads=threads)])

    rows = {"🤗 encode_batch_fast": bare,
            "SentencePiece, 1 thread, text normalised before": lambda: by_sentencepiece(normalised, 1),
            f"SentencePiece, {options.cores} threads, text normalised before":
                lambda: by_sentencepiece(normalised, options.cores),
            "SentencePiece, 1 thread, the text normalised by 🤗 Tokenizers, timed with it":
                lambda: by_sentencepiece(normalise(), 1),
            "fast (BlockEncoder, 1 process)": by_words,
            "native": lambda: np.frombuffer(b"".join(map(Words(native).sentence, sentences)), "<u2"),
            "native without looking words up, a tenth of the text": lambda: np.concatenate(
                [np.array(native.encode(sentence), "<u2") for sentence in tenth])}
    normalised = normalise()
    seconds, found = {name: [] for name in rows}, {}
    for _ in range(options.rounds):
        for name, run in rows.items():
            started = time.perf_counter()
            found[name] = run()
            seconds[name].append(time.perf_counter() - started)
    print(f"\n| encoding, {megabytes:.1f} MB in {len(sentences):,} sentences | MB/s | ids equal |\n|---|---|---|")
    first = next(iter(found.values()))
    for name, times in seconds.items():
        equal = np.array_equal(found[name], first[:len(found[name])])
        read = megabytes * len(found[name]) / len(first)
        print(f"| {name} | {read / min(times):.2f} | {'yes' if equal else 'no'} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("ALBERT_SHARED", ROOT.parent / "shared" / "data"))
    parser.add_argument("--text", type=Path, default=shared / "pretrain")
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--vocab", type=int, default=8000)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=("train", "encode", "all"), default="all")
    parser.add_argument("--progress", action="store_true", help="how the native trainer gets on")
    options = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(options.cores)  # read when tokenizers is imported and first used
    files = sorted(options.text.rglob("*.txt")) if options.text.is_dir() else [options.text]
    paragraphs = read(files, 1.2e6 * options.megabytes)
    train = [text for index, text in enumerate(paragraphs) if index % 6]
    heldout = paragraphs[::6]
    print(f"{platform.machine()}, {options.cores} of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
          f"{platform.python_version()}")
    if options.part != "encode":
        training(train, heldout, options)
    if options.part != "train":
        encoding(train, options)


if __name__ == "__main__":
    main()
