"""What the tasks score without a network: the majority class, and TF-IDF vectors with scikit-learn's linear models.

    python bench/baselines.py --data DATA          # with glue/, squad/, conll2003/ and race/ in it
"""
import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.task_files import read_task
from trainer import metrics

FOLDERS = {"sst2": "glue", "stsb": "glue", "rte": "glue", "ner": "conll2003", "squad2": "squad", "race": "race"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(FOLDERS), choices=list(FOLDERS))
    args = parser.parse_args()
    print("| task | metric | majority | TF-IDF |\n|---|---|---|---|")
    for name in args.tasks:
        data = read_task(name, str(args.data / FOLDERS[name]))
        majority, model = {"classification": classes, "regression": numbers, "tagging": tags, "questions": answers,
                           "choice": choices}[data.kind](data)
        for metric, value in majority.items():
            print(f"| {name} | {metric} | {value:.4f} | {f'{model[metric]:.4f}' if model else ''} |", flush=True)


def tfidf(analyzer="word", ngrams=(1, 2)):
    return TfidfVectorizer(analyzer=analyzer, ngram_range=ngrams, sublinear_tf=True, min_df=2)


def joined(part):
    """Each text, a pair as one with its second half marked, so that a word counts apart in either."""
    if "pair" not in part.inputs:
        return part.inputs["text"]
    return [a + " " + " ".join(f"2_{word}" for word in b.split()) for a, b in zip(*part.inputs.values())]


def logistic(train, labels, dev, **kind):
    vectors = tfidf(**kind)
    model = LogisticRegression(max_iter=300).fit(vectors.fit_transform(train), labels)
    return model, vectors.transform(dev)


def classes(data):
    model, dev = logistic(joined(data.train), data.train.labels, joined(data.dev))
    constant = np.full(len(data.dev), np.bincount(data.train.labels).argmax())
    return [metrics.classification(data.metrics, data.dev.labels, guess, "binary")
            for guess in (constant, model.predict(dev))]


def numbers(data):
    """Ridge regression on the products of the two texts' TF-IDF vectors."""
    vectors = tfidf().fit(data.train.inputs["text"] + data.train.inputs["pair"])
    train, dev = (vectors.transform(part.inputs["text"]).multiply(vectors.transform(part.inputs["pair"])).tocsr()
                  for part in (data.train, data.dev))
    guess = Ridge().fit(train, data.train.labels).predict(dev)
    return dict.fromkeys(data.metrics, 0.0), metrics.regression(data.metrics, data.dev.labels, guess)


def tags(data):
    """Logistic regression on the characters of a word and of its neighbours."""
    def windows(part):
        for words in part.inputs["words"]:
            padded = ["<", *words, ">"]
            yield from (f"{word} {before[-3:]}_ _{after[:3]}" for before, word, after
                        in zip(padded, padded[1:], padded[2:]))
    labels = np.concatenate(data.train.labels)
    model, dev = logistic(list(windows(data.train)), labels, list(windows(data.dev)), analyzer="char_wb", ngrams=(1, 4))
    gold = [[data.labels[tag] for tag in sentence] for sentence in data.dev.labels]
    guess = model.predict(dev)
    ends = np.cumsum([len(sentence) for sentence in gold])[:-1]
    return [metrics.tagging(data.metrics, gold, [[data.labels[tag] for tag in part] for part in np.split(flat, ends)])
            for flat in (np.full_like(guess, np.bincount(labels).argmax()), guess)]


def answers(data):
    """No answer to any question."""
    nothing = float(np.mean([not answers for answers in data.dev.labels]))
    return dict.fromkeys(data.metrics, nothing), None


def choices(data):
    """The most frequent letter; the option that logistic regression finds likeliest to be right."""
    def texts(part):
        return [f"{question} {option} " + " ".join(f"2_{word}" for word in sorted({*option.split()} & {*article.split()}))
                for article, question, options in zip(*part.inputs.values()) for option in options]
    number = len(data.train.inputs["options"][0])
    right = (np.repeat(data.train.labels, number) == np.tile(np.arange(number), len(data.train))).astype(int)
    model, dev = logistic(texts(data.train), right, texts(data.dev))
    guess = model.predict_proba(dev)[:, 1].reshape(-1, number).argmax(axis=1)
    constant = np.bincount(data.train.labels).argmax()
    return [{"accuracy": float(np.mean(labels == np.array(data.dev.labels)))} for labels in (constant, guess)]


if __name__ == "__main__":
    main()
