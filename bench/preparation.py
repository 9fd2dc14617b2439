"""Preparation against its bare core: text to a token store, beside `Tokenizer.encode_batch` on the same text.

    python bench/preparation.py [--text FILE_OR_FOLDER] [--tokenizer PATH] [--megabytes 20] [--cores N]

The peer only encodes paragraphs that lie in memory. Ours starts its processes, splits sentences, encodes
and writes the store. Both take turns; the best of the rounds counts.
"""
import argparse
import hashlib
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


class Paragraphs:
    """The first bytes of some text files, in memory, as a source."""
    name = "bench"

    def __init__(self, files, limit):
        self.items, self.bytes_read = [], 0
        for file in files:
            for index, line in enumerate(filter(None, map(str.strip, open(file, encoding="utf-8")))):
                self.items.append((index == 0, line))
                self.bytes_read += len(line.encode())
                if self.bytes_read >= limit:
                    break
            if self.bytes_read >= limit:
                break
        self.total_bytes = self.bytes_read

    def fingerprint(self):
        return {"sha256": hashlib.sha256(repr(self.items).encode()).hexdigest()}

    def paragraphs(self):
        return iter(self.items)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("ALBERT_SHARED", ROOT.parent / "shared" / "data"))
    parser.add_argument("--text", type=Path, default=shared / "pretrain")
    parser.add_argument("--tokenizer", default=None,
                        help="default: a Unigram of 8,000 pieces, trained on the text")
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(options.cores)  # read when tokenizers is imported and first used
    os.environ["TOKENIZERS_PARALLELISM"] = "true"

    from data.store import prepare
    from data.tokenizer import load_tokenizer
    from data.tokenizer_training import train_tokenizer

    files = sorted(options.text.rglob("*.txt")) if options.text.is_dir() else [options.text]
    source = Paragraphs(files, options.megabytes * 1e6)
    texts = [text for _, text in source.items]
    megabytes = source.total_bytes / 1e6
    started = time.perf_counter()
    tokenizer = (load_tokenizer(options.tokenizer) if options.tokenizer else
                 train_tokenizer(texts, "unigram", 8000, 0, progress=False))
    training = time.perf_counter() - started

    def bare(encode):
        for first in range(0, len(texts), 1000):
            encode(texts[first:first + 1000], add_special_tokens=False)

    def ours(workers):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "tokenizer.json")
            tokenizer.save(str(path))
            prepare(source, folder, tokenizer=path, kind="unigram", vocab_size=0,
                    num_workers=workers, progress=False)

    rows = {"Tokenizer.encode_batch": lambda: bare(tokenizer.encode_batch),
            "Tokenizer.encode_batch_fast": lambda: bare(tokenizer.encode_batch_fast),
            f"prepare, num_workers={options.cores}": lambda: ours(options.cores)}
    seconds = {name: [] for name in rows}
    for _ in range(options.rounds):
        for name, run in rows.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    peer = min(seconds["Tokenizer.encode_batch"])
    load = os.getloadavg()[0]
    print(f"\n{platform.machine()}, {options.cores} of {os.cpu_count()} cores, load {load:.1f}, "
          f"Python {platform.python_version()}; {megabytes:.1f} MB, best of {options.rounds} rounds")
    print(f"{'':32}{'MB/s':>8}{'ratio':>8}")
    for name, times in seconds.items():
        print(f"{name:32}{megabytes / min(times):8.2f}{peer / min(times):8.2f}")
    if not options.tokenizer:
        print(f"training the tokenizer: {training:.1f} s")


if __name__ == "__main__":
    main()
