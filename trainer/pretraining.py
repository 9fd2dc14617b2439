"""Pretraining as the loop sees it: updates from the token store, the two losses, held-out evaluation."""
import signal
import unicodedata
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from data import draws, fast
from data.errors import DataError
from data.examples import NO_LABEL
from data.tokenizer import UNKNOWN_SHARE
from data.tokenizer_training import MARKED_LANGUAGES
from trainer.machine import end_with_parent
from trainer.micro_batches import micro_batches, tensors
from trainer.signals import ENDING

# Runs that differ in seed or mask_prob are scored on the same documents, pairs and masks.
HELDOUT = dict(seed=0, mask_prob=0.15)


class Pretraining:
    """Masked language modelling and sentence order over a token store.

    The documents are split into training and held-out ones; each update is ``batch_size`` samples, sorted by
    length and cut into globally numbered micro-batches of which process r of n takes every n-th. ``pipeline`` is
    ``data.fast`` or ``data.native``: they make the same examples.
    """
    count_names = ("mlm", "sentence", "tokens")
    sum_names = ("mlm_loss", "mlm_correct", "sentence_loss", "sentence_correct")

    def __init__(self, store, tokenizer, hps, world, pipeline=fast):
        self.hps, self.world, self.tokenizer = hps, world, tokenizer
        self.read_share = hps.mask_prob              # share of the tokens whose last hidden states the heads read
        specials, starts = pipeline.special_ids(tokenizer), pipeline.word_starts(tokenizer)
        shape = dict(seq_len=hps.seq_len, max_ngram=hps.max_ngram, whole_words=hps.whole_words,
                     short_seq_prob=hps.short_seq_prob, sentence_objective=hps.sentence_objective)
        store, training, heldout = split(store, hps.heldout_fraction, 2 if hps.sentence_objective == "nsp" else 1)
        self.train = pipeline.PretrainingExamples(store, training, specials, starts, seed=hps.seed,
                                                  mask_prob=hps.mask_prob, **shape)
        if not len(self.train.ordinary_ids):
            raise DataError("the tokenizer has no pieces but the special tokens")
        self.heldout = pipeline.PretrainingExamples(store, heldout, specials, starts, **HELDOUT, **shape)
        available = len(self.train.plan(0).label)
        if available < hps.batch_size:
            less = f", or --set batch_size={available // 2}" if available > 1 else ""
            raise DataError(f"the corpus makes {available} training sequences of {hps.seq_len} tokens, fewer than one "
                            f"batch: give more text{less}")
        labels = self.heldout.batch(0, self._evaluated())["mlm_labels"]
        self.heldout_labels, self.unigram_loss = len(labels), self._unigram_loss(labels)

    def remarks(self):
        """Lines about a text that will not do what its user may expect."""
        hps, store, plan, lines = self.hps, self.train.store, self.train.plan(0), []
        tokens = np.diff(store.sentence_offsets[store.document_offsets])                    # of each document
        if (median := np.median(tokens)) < hps.seq_len:
            lines.append(f"half of the documents have fewer than {median + 1:,.0f} tokens: many sequences stay shorter than "
                         f"seq_len={hps.seq_len}")
        if (share := tokens[self.heldout.documents].sum() / tokens.sum()) > max(2 * hps.heldout_fraction, 0.2):
            lines.append(f"{share:.0%} of the tokens are held out, for heldout_fraction={hps.heldout_fraction:g} of the "
                         "documents: they are few and of unequal length; cut long ones, or try another --documents")
        last, counts = np.unique(store.tokens[store.sentence_offsets[1:100_001] - 1], return_counts=True)
        share = np.average([_closes(self.tokenizer.id_to_token(int(token)) or " ") for token in last], weights=counts)
        if share < 0.7 and hps.language not in ("th", "lo"):
            lines.append(f"{share:.0%} of the sentences end in a mark (such as .!?), few for prose: each line end closes a "
                         "paragraph; where lines are wrapped, join those of one")
        if (share := plan.length.sum() / tokens[self.train.documents].sum()) < 0.7:
            lines.append(f"an epoch reads {share:.0%} of the tokens: many sentences are longer than seq_len={hps.seq_len}, "
                         "and a part of each is drawn")
        unknown = np.mean(store.tokens[:10_000_000] == self.train.specials.unk)
        if unknown > UNKNOWN_SHARE:
            lines.append(f"{unknown:.0%} of the tokens are unknown to the vocabulary, and all read alike: take another "
                         "--tokenizer, or tokenizer_kind=unigram where it is WordPiece and words are of over 100 characters")
        if self.heldout_labels < 500:
            fewer = hps.eval_sequences < len(self.heldout.plan(0).label)
            lines.append(f"{self.heldout_labels} masked tokens are held out: scores of so few are chance; "
                         + (f"eval_sequences={hps.eval_sequences} takes no more" if fewer else
                            "give more text, or a larger heldout_fraction"))
        if hps.whole_words and all(self.train.starts_word):
            lines.append("the tokenizer's pieces do not say where words begin: each counts as a word where masks are drawn")
        if hps.sentence_objective != "none" and (plan.label == NO_LABEL).all():
            lines.append(f"no sequence has two sentences: sentence_objective={hps.sentence_objective} is not trained")
        return lines

    def position(self):
        """Where training starts in the data: a dictionary that JSON can hold."""
        return {"epoch": 0, "sample": 0}

    def updates(self, position):
        """Endless ``(position afterwards, micro-batches)``; a micro-batch is (global number, tensors)."""
        # Workers hand on arrays: of tensors each would be a file, and an update has hundreds, more than many systems allow.
        loader = DataLoader(_Updates(self.train, self.hps, self.world), sampler=self._ranges(position), batch_size=None,
                            num_workers=self.hps.num_workers, collate_fn=lambda update: update,
                            worker_init_fn=_live_with_the_trainer,
                            multiprocessing_context="fork" if self.hps.num_workers else None)
        return _handed_on(iter(loader))

    def _ranges(self, position):
        epoch, sample = position["epoch"], position["sample"]
        if sample > len(self.train.plan(epoch).label):
            raise DataError(f"the checkpoint stands at sample {sample}, beyond the data of its epoch; start a new run")
        while True:
            ranges, missing = [], self.hps.batch_size
            while missing:
                stop = min(sample + missing, len(self.train.plan(epoch).label))
                ranges.append((epoch, sample, stop))
                missing -= stop - sample
                epoch, sample = (epoch, stop) if missing == 0 else (epoch + 1, 0)
            yield ranges, {"epoch": epoch, "sample": sample}

    def evaluation(self):
        """This process's share of the held-out micro-batches, the same at every call."""
        batches = _micro_batches(self.heldout, [(0, 0, len(self._evaluated()))], self.hps.micro_batch_size, self.world)
        return [batch for _, batch in tensors(batches)]

    def _evaluated(self):
        """The held-out samples that an evaluation reads, over all processes."""
        return np.arange(min(self.hps.eval_sequences, len(self.heldout.plan(0).label)))

    def counts(self, batch):
        """What each part of the loss is averaged over, and the tokens read."""
        return {"mlm": len(batch["mlm_labels"]), "sentence": int((batch["sentence_labels"] != NO_LABEL).sum()),
                "tokens": int(batch["attention_mask"].sum())}

    def sums(self, model, batch):
        """Losses (nats) and correct predictions of a micro-batch, each summed: a dictionary of scalar tensors."""
        labels, sentence_labels = batch["mlm_labels"], batch["sentence_labels"]
        out = model(batch["input_ids"], batch["token_type_ids"], batch.get("attention_mask"), batch["masked_positions"], labels)
        sums = {"mlm_loss": out.mlm_loss, "mlm_correct": out.mlm_correct}
        if out.sop_logits is not None:
            logits = out.sop_logits.float()
            sums["sentence_loss"] = F.cross_entropy(logits, sentence_labels, reduction="sum", ignore_index=NO_LABEL)
            sums["sentence_correct"] = (logits.argmax(-1) == sentence_labels).sum()
        return sums

    def predict(self, model, batch):
        """The sums of a held-out micro-batch, and what ``metrics`` reads of it: nothing."""
        return self.sums(model, batch), None

    def metrics(self, outputs):
        """Held-out scores beside the means of the sums: none."""
        return {}

    def goodness(self, scores):
        """What the best checkpoint has most of."""
        return -scores["loss"]

    def baselines(self):
        return {"unigram": self.unigram_loss}

    def summary(self, scores):
        """The held-out scores in words."""
        text = (f"held-out MLM loss {scores['mlm_loss']:.3f} (unigram {self.unigram_loss:.3f}), "
                f"accuracy {scores['mlm_accuracy']:.3f}")
        if "sentence_accuracy" in scores:
            text += f"; sentence-{'order' if self.hps.sentence_objective == 'sop' else 'prediction'} accuracy " \
                    f"{scores['sentence_accuracy']:.3f}"
        return text

    def _unigram_loss(self, labels, limit=50_000_000):
        """Cross-entropy (nats) of the held-out masked tokens under the frequencies of the first training tokens."""
        store, size = self.train.store, len(self.train.starts_word)
        counts = sum(np.bincount(part, minlength=size)                    # which makes of a part integers of 8 bytes
                     for part in np.array_split(store.tokens[:limit], -(-limit // 2 ** 20)))
        bounds = np.minimum(store.sentence_offsets[store.document_offsets], limit)
        for document in self.heldout.documents[bounds[self.heldout.documents] < limit]:
            counts -= np.bincount(store.tokens[bounds[document]:bounds[document + 1]], minlength=size)
        logs = np.log((counts + 1) / (counts.sum() + size))
        if not len(labels):
            raise DataError("the held-out documents are too short to mask a token: give more text, or a larger "
                            "--set heldout_fraction")
        return float(-logs[labels].mean())


def _closes(piece):
    """Whether a piece ends in a mark that a sentence may end in."""
    return unicodedata.category(piece[-1])[0] in "PS" and piece[-1] not in ",;-–—،、，"


def vocabulary_remarks(hps, keys, given, size):
    """Lines about the vocabulary, of ``size`` pieces and of the tokenizer ``given``, or trained on the text, where it is not
    what the ``keys`` that were set ask for, or does not suit the language."""
    if given:
        return [f"{key}={getattr(hps, key)} is not used: {given} has its own {size:,} pieces" for key in keys
                if key in ("lower_case", "strip_accents") or key == "vocab_size" and hps.vocab_size != size]
    if hps.language in MARKED_LANGUAGES and hps.strip_accents and "strip_accents" not in keys:
        return [f"language={hps.language}: without its marks words look alike (in Korean syllables fall into letters); "
                "--set strip_accents=false keeps them"]
    return []


def _handed_on(updates):
    try:
        for after, batches in updates:
            yield after, tensors(batches)
    finally:
        heeded = signal.getsignal(signal.SIGCHLD)
        if callable(heeded):                           # by DataLoader: the workers end, and one that is killed now is no loss
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            del updates
            signal.signal(signal.SIGCHLD, heeded)


class _Updates(Dataset):
    """The micro-batches of an update, by the ranges of samples it reads."""

    def __init__(self, examples, hps, world):
        self.examples, self.size, self.world = examples, hps.micro_batch_size, world

    def __getitem__(self, update):
        ranges, position = update
        return position, _micro_batches(self.examples, ranges, self.size, self.world)


def _live_with_the_trainer(worker):
    """Leave signals to the trainer, and die with it at once (DataLoader looks every 5 s): a worker keeps its connections
    open, by which the others of several processes see that it is gone."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)


def _micro_batches(examples, ranges, size, world):
    return micro_batches([(np.arange(start, stop), examples.plan(epoch).length[start:stop], partial(examples.batch, epoch))
                          for epoch, start, stop in ranges], size, world)


def split(store, fraction, least=1):
    """Training and held-out documents of a store: ``(store, training documents, held-out documents)``.

    ``fraction`` of the documents is held out (at ``least`` so many), chosen by a fixed draw. Of a store of one document
    the last part is held out, in a view of the store where it is a document of its own.
    """
    if store.num_documents == 1:
        cut = min(max(round((1 - fraction) * store.num_sentences), 1), store.num_sentences - 1)
        view = SimpleNamespace(tokens=store.tokens, sentence_offsets=store.sentence_offsets, num_documents=2,
                               num_sentences=store.num_sentences,
                               document_offsets=np.array([0, cut, store.num_sentences]))
        return view, np.array([0]), np.array([1])
    order = draws.permutation(draws.key("heldout"), store.num_documents)
    number = min(max(round(fraction * store.num_documents), least), store.num_documents - 1)
    return store, np.sort(order[number:]), np.sort(order[:number])
