"""Answers from a checkpoint, in one line:

    fill = pipeline("fill-mask", "runs/pretrain-...")
    fill("the [MASK] sat on the mat")

A pipeline takes one input, or a list of them, and returns a dictionary, or a list of them in the same order. An input
is a text or, for the tasks of several texts, a tuple of them. A single text that is longer than the model, or than the rows
that it was fine-tuned on, is read in windows that overlap by a quarter (a context in one every `doc_stride` tokens); "windows"
says in how many. Of two texts the longer one is cut, and "cut" says so. An empty input is answered by an empty dictionary.
"""
import logging
import math
import queue
import re
import threading
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import torch

from albert.config import AlbertConfig
from albert.errors import ModelError
from albert.models import (Albert, AlbertForMultipleChoice, AlbertForPretraining, AlbertForQuestionAnswering,
                           AlbertForSequenceClassification, AlbertForTokenClassification)
from albert.pretrained import checkpoint_folder, head_of, read_config, read_json

OVERLAP = 0.25            # of a window with the next
BATCH_TOKENS = 4096       # tokens a forward pass, padding included
CHUNK = 256               # inputs whose windows are sorted by length together, fewer where they hold more than
CHUNK_CHARACTERS = 1_000_000
AHEAD = 64                # inputs that are read before they are needed
PATIENCE = 0.1            # seconds that a chunk is filled for: lines that come slowly are answered as they come


class Pipeline:
    """What the tasks have in common: texts to windows, windows to batches of about one length, results in order.

    Each task has a `model_class`, names its `inputs` and the `columns` of its answers, and defines `rows` (the windows
    of encoded texts), `read` (what is kept of a batch's output) and `answer` (of all windows of one input).
    """
    model_class = Albert
    changes = {}                 # of the configuration
    inputs = ("text",)

    def __init__(self, folder: Path, config: AlbertConfig, device: torch.device, dtype: torch.dtype | None,
                 quantize: str | None = None, **options):
        from data.tokenizer import load_tokenizer, special_ids, vocabulary_size

        self.folder, self.config, self.device, self.dtype = folder, config, device, dtype
        self.tokenizer = load_tokenizer(folder)
        self.special = special_ids(self.tokenizer)
        if (size := vocabulary_size(self.tokenizer)) > config.vocab_size:
            raise ModelError(f"{folder}: the tokenizer has {size} tokens, but config.json says "
                             f"vocab_size={config.vocab_size}: they do not belong together")
        self.settled = finetuned(folder)
        learned = self.settled.get("seq_len", 0)
        self.length = min(config.max_position_embeddings, learned) if learned >= 5 else config.max_position_embeddings
        self.set(**options)
        self.model = self.load().to(device)
        if quantize == "int8":
            _to_int8(self.model)

    def load(self):
        return self.model_class.from_pretrained(self.folder, **self.changes)

    def _load_for(self, *parts: str, otherwise: str = ""):
        """The model, in silence about heads that are made anew and not asked. Raises ModelError where the checkpoint lacks
        one of the ``parts``, which are."""
        log = logging.getLogger("albert")
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            model = Pipeline.load(self)
        finally:
            log.setLevel(level)
        lacking = next((part for part in parts if {part, f"albert.{part}"} & set(model.anew)), None)
        if lacking:
            raise ModelError(f"{self.folder}: no {lacking} in this checkpoint{otherwise}")
        return model

    def set(self):
        """Take the options of the task; those without any take none."""

    def __call__(self, inputs):
        if isinstance(inputs, Iterator):
            raise ModelError("this takes one input or a list of them; .stream(...) takes an iterator")
        if isinstance(inputs, list):
            return list(self._answered(list(self._all_checked(inputs))))        # before any of them is computed
        return next(self.stream([inputs]))

    def stream(self, inputs: Iterable, first: int = 1) -> Iterator[dict]:
        """The answers to any number of inputs, a chunk of them in memory at a time: one at first, then more. Those before
        a faulty input come before its error, which counts inputs from ``first``. Inputs are drawn in a thread of their own
        (a cursor of sqlite3 needs ``check_same_thread=False``)."""
        return self._answered(self._all_checked(inputs, first))

    def _all_checked(self, inputs, first=1):
        for number, item in enumerate(inputs, start=first):
            try:
                checked = self._checked(item)
            except ModelError as fault:
                raise ModelError(f"input {number}: {fault}") from None
            yield checked

    def _answered(self, items):
        """The answers to any number of checked inputs."""
        waiting, left = queue.Queue(AHEAD), threading.Event()
        threading.Thread(target=_read_ahead, args=(items, waiting, left), daemon=True).start()
        try:
            yield from self._chunks(waiting)
        finally:
            left.set()

    def _chunks(self, waiting):
        size, end = 1, None
        while end is None:
            chunk, characters, deadline = [], 0, None                # the first input is waited for, the others until then
            while end is None and len(chunk) < size and characters <= CHUNK_CHARACTERS:
                try:
                    item, end = waiting.get(timeout=deadline and max(deadline - time.monotonic(), 0))
                    if end is None:
                        chunk.append(item)
                        characters += sum(map(len, item))
                except queue.Empty:
                    break
                deadline = deadline or time.monotonic() + PATIENCE
            asked = [index for index, item in enumerate(chunk) if self._is_asked(item)]
            answers = [{} for _ in chunk]
            for index, answer in zip(asked, self._answers([chunk[index] for index in asked])):
                answers[index] = answer
            yield from answers
            size = min(2 * size, CHUNK)
        if not isinstance(end, StopIteration):
            raise end

    def _checked(self, item):
        """The input as a tuple; ModelError for one that is no text or of the wrong number of texts."""
        item = item if isinstance(item, tuple) else (item,)
        if len(item) != len(self.inputs):
            raise ModelError(f"this task takes {' and '.join(self.inputs)}, not {len(item)} text{'s' * (len(item) != 1)}; "
                             "several inputs are a list")
        for name, part in zip(self.inputs, item):
            if name == "options" and part != "" and not isinstance(part, list):
                raise ModelError(f"options is a {type(part).__name__}, not a list of texts")
            for text in part if isinstance(part, list) and name == "options" else [part]:
                if not isinstance(text, str):
                    raise ModelError(f"{name} is a {type(text).__name__}, not a text")
                if not text.isascii() and re.search("[\ud800-\udfff]", text):
                    raise ModelError(f"{name} holds bytes that are not UTF-8")
        return item

    def _is_asked(self, item):
        """Whether an input has the texts that an answer needs."""
        return all(text.strip() for text in item)

    def _answers(self, items):
        if not items:
            return []
        windows, owners = [], []
        for number, rows in enumerate(self.rows(items)):
            windows += rows
            owners += [number] * len(rows)
        outputs = self._outputs(windows)
        grouped = [[] for _ in items]
        for owner, window, output in zip(owners, windows, outputs):
            grouped[owner].append((window, output))
        return [self.answer(item, group) for item, group in zip(items, grouped)]

    def _outputs(self, windows):
        """What `read` keeps of each window, computed in batches of about one length."""
        order = sorted(range(len(windows)), key=lambda index: -len(windows[index]["ids"]))
        outputs, start = [None] * len(windows), 0
        while start < len(order):
            width = len(windows[order[start]]["ids"])
            batch = [windows[index] for index in order[start:start + max(1, BATCH_TOKENS // width)]]
            ids, types = (torch.full((len(batch), width), fill) for fill in (self.special.pad, 0))
            for row, window in enumerate(batch):
                ids[row, :len(window["ids"])] = torch.tensor(window["ids"])
                types[row, :len(window["ids"])] = torch.tensor(window["types"])
            lengths = torch.tensor([len(window["ids"]) for window in batch])
            mask = None if lengths[-1] == width else torch.arange(width) < lengths[:, None]
            inputs = [None if tensor is None else tensor.to(self.device) for tensor in (ids, types, mask)]
            with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                kept = self.read(batch, *inputs)
            for index, output in zip(order[start:], kept):
                outputs[index] = output
            start += len(batch)
        return outputs

    def rows(self, items):
        """The windows of each item: of one text [{"ids", "types", "offsets"}], of two [{"ids", "types", "cut"}]."""
        if len(self.inputs) == 2:
            return [[row] for row in self._pairs(items)]
        encoded = self.tokenizer.encode_batch([text for text, *_ in items], add_special_tokens=False)
        return [self._windows(encoding.ids, offsets=encoding.offsets) for encoding in encoded]

    def _windows(self, ids, **columns):
        """Windows [CLS] ids [SEP]; other columns are cut as ids are."""
        room = self.length - 2
        step = max(1, room - int(OVERLAP * room))
        windows = []
        for begin in range(0, max(len(ids) - room, 0) + step, step):
            part = slice(begin, begin + room)
            body = [self.special.cls, *ids[part], self.special.sep]
            windows.append({"ids": body, "types": [0] * len(body),
                            **{name: column[part] for name, column in columns.items()}})
        return windows

    def _pairs(self, pairs):
        """One row [CLS] a [SEP] b [SEP] for each pair, the longer one cut where it does not fit."""
        return [{"ids": encoding.ids, "types": encoding.type_ids, "cut": bool(encoding.overflowing)}
                for encoding in self._cutting.encode_batch(pairs)]

    @cached_property
    def _cutting(self):
        from data.features import cutting

        return cutting(self.tokenizer, self.length)


class FillMask(Pipeline):
    """text with [MASK] in it → {"filled", the text with the likeliest pieces in place, "masks": [{"start", "end",
    "predictions": [{"token", "probability"}]}], "windows", those with a mask}."""
    columns = ("filled", "masks", "windows")
    model_class = AlbertForPretraining
    changes = {"sentence_objective": "none"}

    def set(self, top_k: int = 5):
        if type(top_k) is not int or not 1 <= top_k <= self.config.vocab_size:
            raise ModelError(f"top_k={top_k}: from 1 to the {self.config.vocab_size} tokens there are")
        self.top_k = top_k

    def load(self):
        from data.tokenizer import for_masks

        self.tokenizer, self.lead = for_masks(self.tokenizer)
        return super().load()

    def _checked(self, item):
        (text,), mask = super()._checked(item), self.tokenizer.id_to_token(self.special.mask)
        if text.strip() and mask not in text:
            raise ModelError(f"no {mask} in the text '{text[:60]}': put it where a word is to be guessed")
        return text,

    def rows(self, items):
        rows = super().rows([(self.lead + text,) for text, in items])
        for windows in rows:
            for window in windows:
                window["offsets"] = [(start - len(self.lead), end - len(self.lead)) for start, end in window["offsets"]]
                window["masks"] = [place for place, index in enumerate(window["ids"]) if index == self.special.mask]
        return [[window for window in windows if window["masks"]] for windows in rows]

    def read(self, batch, ids, types, mask):
        positions = (ids == self.special.mask).flatten().nonzero().squeeze(1)
        logits = self.model(ids, types, mask, positions).mlm_logits.float()
        best = logits.softmax(-1).topk(self.top_k)
        masks = [len(window["masks"]) for window in batch]
        return zip(*(part.cpu().split(masks) for part in (best.indices, best.values)))

    def answer(self, item, windows):
        text, = item
        found = {}                      # place in the text → (tokens to the nearer end of the window, predictions)
        for window, (indices, values) in windows:
            for place, tokens, probabilities in zip(window["masks"], indices.tolist(), values.tolist()):
                centrality = min(place, len(window["ids"]) - place)
                start, end = window["offsets"][place - 1]
                marked = text[start:end]                      # some tokenizers count the blanks around it in
                key = start + len(marked) - len(marked.lstrip()), end - len(marked) + len(marked.rstrip())
                if key not in found or centrality > found[key][0]:
                    found[key] = centrality, [
                        {"token": self.tokenizer.decode([token], skip_special_tokens=False), "probability": probability}
                        for token, probability in zip(tokens, probabilities)]
        masks = [{"start": start, "end": end, "predictions": predictions}
                 for (start, end), (_, predictions) in sorted(found.items())]
        for mask in reversed(masks):
            before, token = text[:mask["start"]], mask["predictions"][0]["token"]
            if token.startswith("##"):                                    # WordPiece: it goes on with the word before
                before, token = before.rstrip(), token[2:]
            elif token[:1].isspace():                                     # byte-level BPE: it brings its blank along
                before = before.rstrip()
            text = before + token + text[mask["end"]:]
        return {"filled": text, "masks": masks, "windows": len(windows)}


class SentenceOrder(Pipeline):
    """two texts → {"in_order": probability, "cut"}; of a model of next sentences {"follows": probability, "cut"}."""
    model_class = AlbertForPretraining
    inputs = ("first", "second")

    @property
    def columns(self):
        return "in_order" if self.config.sentence_objective == "sop" else "follows", "cut"

    def load(self):
        return self._load_for("sentence_head", "pooler")

    def read(self, batch, ids, types, mask):
        none = torch.zeros(0, dtype=torch.long, device=ids.device)
        return self.model(ids, types, mask, none).sop_logits.float().softmax(-1)[:, 0].tolist()

    def answer(self, item, windows):
        (window, probability), = windows
        return dict(zip(self.columns, (probability, window["cut"])))


class Embed(Pipeline):
    """text → {"embedding": tensor (H,), "windows"}: the mean of its tokens' hidden states, or ``pooling="pooled"``
    the pooled first token; with ``normalize`` of length 1."""
    columns = ("embedding", "windows")

    def set(self, pooling: str = "mean", normalize: bool = False):
        if pooling not in ("mean", "pooled"):
            raise ModelError(f"pooling={pooling}: there are mean and pooled")
        if type(normalize) is not bool:
            raise ModelError(f"normalize={normalize}: write True or False")
        self.pooling, self.normalize = pooling, normalize

    def load(self):
        return self._load_for(*["pooler"] * (self.pooling == "pooled"), otherwise=": leave pooling at mean")

    def read(self, batch, ids, types, mask):
        if self.pooling == "pooled":
            return self.model.pool(ids, types, mask).float().cpu()
        hidden, _ = self.model(ids, types, mask)
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        return ((hidden.float() * real[..., None]).sum(1) / real.sum(1, keepdim=True)).cpu()

    def answer(self, item, windows):
        mean = _mean(windows)
        return {"embedding": mean / mean.norm() if self.normalize else mean, "windows": len(windows)}


class Classify(Pipeline):
    """text → {"label", "probability", "probabilities": {label: probability}, "windows"}, the mean of the windows; of a
    model of several labels {"labels", "probabilities", "windows"}; of a regression {"value", "windows"}."""
    model_class = AlbertForSequenceClassification

    def set(self):
        self.several = self.config.problem_type == "multi_label_classification"
        self.regression = _is_regression(self.config)
        if self.regression and self.config.num_labels != 1:
            raise ModelError(f"{self.folder}: a regression of {self.config.num_labels} values; there is none for more than one")
        self.labels = _labels(self.folder, self.config)

    @property
    def columns(self):
        if self.regression:
            return "value", "windows"
        if self.several:
            return "labels", "probabilities", "windows"
        return "label", "probability", "probabilities", "windows"

    def read(self, batch, ids, types, mask):
        logits = self.model(ids, types, mask).float()
        if self.regression:
            return logits[:, 0].tolist()
        return (logits.sigmoid() if self.several else logits.softmax(-1)).cpu()

    def answer(self, item, windows):
        mean, (first, _) = _mean(windows), windows[0]
        read = {"cut": first["cut"]} if "cut" in first else {"windows": len(windows)}
        if self.regression:
            return {"value": mean, **read}
        probabilities = dict(zip(self.labels, mean.tolist()))
        if self.several:
            return {"labels": [label for label, p in probabilities.items() if p >= 0.5],
                    "probabilities": probabilities, **read}
        best = max(probabilities, key=probabilities.get)
        return {"label": best, "probability": probabilities[best], "probabilities": probabilities, **read}


class Pair(Classify):
    """two texts → what `Classify` answers, with "cut" in place of "windows"."""
    inputs = ("first", "second")

    @property
    def columns(self):
        return *super().columns[:-1], "cut"


class Tag(Pipeline):
    """text → {"entities": [{"label", "text", "start", "end", "probability"}], "windows"}, with character offsets.

    For the words see `data.words.word_spans`; for the entities, `joined` there.
    """
    model_class = AlbertForTokenClassification
    columns = ("entities", "windows")

    def set(self):
        self.labels = _labels(self.folder, self.config)

    def rows(self, items):
        from data.words import word_spans

        spans = [word_spans(text) for text, in items]
        split = [[text[start:end] for start, end in words] for (text,), words in zip(items, spans)]
        encoded = self.tokenizer.encode_batch(split, is_pretokenized=True, add_special_tokens=False)
        return [[{**window, "spans": words} for window in self._windows(encoding.ids, words=encoding.word_ids)]
                for encoding, words in zip(encoded, spans)]

    def read(self, batch, ids, types, mask):
        best = self.model(ids, types, mask).float().softmax(-1).max(-1)
        return zip(best.indices.tolist(), best.values.tolist())

    def answer(self, item, windows):
        from data.words import joined

        text, names, found = *item, self.labels, {}
        for window, (labels, probabilities) in windows:
            before = None
            for place, word in enumerate(window["words"]):
                centrality = min(place, len(window["words"]) - 1 - place)
                if word != before and (word not in found or centrality > found[word][0]):
                    found[word] = centrality, names[labels[place + 1]], probabilities[place + 1]
                before = word
        return {"entities": joined(text, windows[0][0]["spans"], found), "windows": len(windows)}


class Answer(Pipeline):
    """question and context → {"answer", "start", "end", "score", "no_answer_score", "windows"}: characters of the
    context, and the sums of the logits of the span and of no answer. The answer is "" (start and end None) where the
    latter is ahead by more than ``threshold``: by default what fine-tuning has found on its held-out questions; where
    it has seen no unanswerable ones there is always an answer. Of a question the first 64 tokens are read; ``doc_stride``
    is by default that of the fine-tuning."""
    model_class = AlbertForQuestionAnswering
    inputs = ("question", "context")
    columns = ("answer", "start", "end", "score", "no_answer_score", "windows")

    def set(self, threshold: float | None = None, doc_stride: int | None = None):
        self.threshold = self.settled.get("threshold") if threshold is None else threshold
        self.doc_stride = max(self.settled.get("doc_stride", 128), 1) if doc_stride is None else doc_stride
        if type(self.doc_stride) is not int or self.doc_stride < 1:
            raise ModelError(f"doc_stride={doc_stride}: write a number of tokens from 1 on")
        if threshold is not None and not (type(threshold) in (int, float) and math.isfinite(threshold)):
            raise ModelError(f"threshold={threshold}: write a number")

    def _checked(self, item):
        from data.features import QUESTION_TOKENS

        question, context = super()._checked(item)
        if self.length < QUESTION_TOKENS + 4:
            tokens = len(self.tokenizer.encode(question, add_special_tokens=False).ids)
            if min(tokens, QUESTION_TOKENS) + 4 > self.length:
                raise ModelError(f"the question has {tokens} tokens, which leaves no room for its context in the model's "
                                 f"{self.length} positions: ask a shorter one")
        return question, context

    def rows(self, items):
        from data.features import features
        from data.tasks import Examples

        questions, contexts = map(list, zip(*items))
        examples = Examples([str(index + 1) for index in range(len(items))],
                            {"question": questions, "context": contexts}, [[] for _ in items])
        made, _ = features("questions", examples, self.tokenizer, self.length, doc_stride=self.doc_stride)
        rows = [[] for _ in items]
        for row, (begin, end) in enumerate(zip(made.offsets, made.offsets[1:])):
            part = slice(begin, end)
            rows[made.targets["example"][row]].append(
                {"ids": made.tokens["input_ids"][part].tolist(), "types": made.tokens["token_type_ids"][part].tolist(),
                 **{name: values[part] for name, values in made.spans.items()}})
        return rows

    def read(self, batch, ids, types, mask):
        out = self.model(ids, types, mask)
        return zip(out.start_logits.float().cpu().numpy(), out.end_logits.float().cpu().numpy())

    def answer(self, item, windows):
        from data.spans import best_spans

        best, nothing = (-float("inf"), None, None), float("inf")
        for window, (starts, ends) in windows:
            size = len(window["ids"])
            spans, none = best_spans(starts[:size], ends[:size], window["first"] >= 0, window["central"].astype(bool))
            nothing = min(nothing, none)
            places = [(score, int(window["first"][a]), int(window["last"][b])) for score, a, b in spans]
            best = max([best, *(span for span in places if not item[1][span[1]:span[2]].isspace())], key=lambda span: span[0])
        score, start, end = best
        if start is None or (self.threshold is not None and nothing - score > self.threshold):
            score, start, end, text = None if start is None else score, None, None, ""
        else:
            text = item[1][start:end]
            start, text = start + len(text) - len(text.lstrip()), text.strip()
            end = start + len(text)
        return {"answer": text, "start": start, "end": end, "score": score, "no_answer_score": nothing,
                "windows": len(windows)}


class Choose(Pipeline):
    """article, question and list of options → {"choice": number from 0, "option", "probability", "probabilities",
    "cut"}."""
    model_class = AlbertForMultipleChoice
    inputs = ("article", "question", "options")
    columns = ("choice", "option", "probability", "probabilities", "cut")

    def _checked(self, item):
        item = super()._checked(item)
        if len(item[2]) == 1:
            raise ModelError("options: one alone; there must be two to choose from")
        return item

    def _is_asked(self, item):
        article, question, options = item
        return bool((article + question).strip() and options)

    def rows(self, items):
        pairs = [(article, f"{question} {option}") for article, question, options in items for option in options]
        made = iter(self._pairs(pairs))
        return [[next(made) for _ in options] for *_, options in items]

    def read(self, batch, ids, types, mask):
        def choices(tensor):
            return None if tensor is None else tensor[:, None]
        return self.model(choices(ids), choices(types), choices(mask)).float()[:, 0].tolist()

    def answer(self, item, windows):
        probabilities = torch.tensor([score for _, score in windows]).softmax(0).tolist()
        choice = max(range(len(probabilities)), key=probabilities.__getitem__)
        return {"choice": choice, "option": item[2][choice], "probability": probabilities[choice],
                "probabilities": probabilities, "cut": any(window["cut"] for window, _ in windows)}


TASKS = {"fill-mask": FillMask, "sentence-order": SentenceOrder, "embed": Embed, "classify": Classify, "pair": Pair,
         "regress": Classify, "tag": Tag, "qa": Answer, "choose": Choose}


def pipeline(task: str | None, checkpoint, device: str | None = None, precision: str = "fp32",
             quantize: str | None = None, **options) -> Pipeline:
    """The pipeline of a task over a checkpoint: a run folder, a checkpoint folder, or a folder or hub name in the
    Hugging Face layout.

    task: one of `TASKS`, or None for what the checkpoint was made for. device: "cuda" where there is one. precision:
    fp32, or bf16 or fp16 autocast. quantize: "int8" has the encoder's products computed in 8 bits, which needs the
    package torchao. options: of the task, see its `set`. Raises ModelError for a task that is unknown or that the
    checkpoint can't do, and for an option that the task does not have.
    """
    folder = checkpoint_folder(checkpoint)
    config = read_config(folder)
    abilities = (*_abilities(folder, config), "embed")
    task = task or abilities[0]
    if task not in TASKS:
        raise ModelError(f"task {task}: choose from {', '.join(TASKS)}")
    if task not in abilities:
        raise ModelError(f"{checkpoint}: it can't do {task}; it can do {', '.join(abilities)}")
    dtypes = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        raise ModelError(f"precision={precision}: there are {', '.join(dtypes)}")
    if quantize not in (None, "int8"):
        raise ModelError(f"quantize={quantize}: there is int8")
    if quantize and precision != "fp32":
        raise ModelError(f"quantize={quantize} goes with precision=fp32, not {precision}")
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros((), device=device).item()                    # one that is there and computes
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(f"device={device}: {str(error).splitlines()[0]}") from None
    try:
        return TASKS[task](folder, config, device, dtypes[precision], quantize, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ModelError(f"task {task}: no option {str(error).split()[-1]}") from None


def _to_int8(model: torch.nn.Module):
    """Have the encoder's linear layers multiply int8 weights (a scale for each output) by int8 inputs (a scale for each
    token, found as they come). The heads, the embeddings and all else stay in float32."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)                            # torchao reports kernels for GPUs that it can't load
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError:
        raise ModelError("quantize=int8 needs the package torchao: pip install torchao") from None
    finally:
        logging.disable(level)
    quantize_(model, Int8DynamicActivationInt8WeightConfig(),
              lambda part, name: isinstance(part, torch.nn.Linear) and ".encoder." in f".{name}")


def _abilities(folder: Path, config: AlbertConfig) -> tuple[str, ...]:
    """The tasks of the heads that a checkpoint names, the first where none is asked for."""
    head = head_of(folder)
    if head == "sequenceclassification":
        alone = "regress" if _is_regression(config) else "classify"
        return ("pair", alone) if "pair" in finetuned(folder).get("inputs", ()) else (alone, "pair")
    if head == "pretraining":
        return ("fill-mask",) if config.sentence_objective == "none" else ("fill-mask", "sentence-order")
    return {"maskedlm": ("fill-mask",), "nextsentenceprediction": ("sentence-order",), "tokenclassification": ("tag",),
            "questionanswering": ("qa",), "multiplechoice": ("choose",)}.get(head, ())


def finetuned(folder: Path) -> dict:
    """What a fine-tuning has settled beside the model, as far as it has: "inputs", "seq_len", "doc_stride" and "threshold"
    (of no answer). From the run that a checkpoint belongs to, or from config.json, where `--export` puts it."""
    folder = folder.resolve()
    run = folder.parent.parent
    if folder.parent.name == "checkpoints" and (run / "config.json").is_file():
        values = read_json(run / "config.json")
        if (run / "metrics.json").is_file():
            values |= read_json(run / "metrics.json").get("dev", {})
    else:
        values = read_json(folder / "config.json").get("finetuned")
    if not isinstance(values, dict) or "inputs" not in values:
        return {}
    kinds = {"inputs": list, "seq_len": int, "doc_stride": int, "threshold": float}
    return {name: values[name] for name, kind in kinds.items() if isinstance(values.get(name), kind)}


def _read_ahead(inputs: Iterable, waiting: queue.Queue, left: threading.Event):
    """Put (input, None) of each into the queue and then (None, what has ended them), until the reader has ``left``."""
    def put(item):
        while not left.is_set():
            try:
                return waiting.put(item, timeout=1)
            except queue.Full:
                pass

    try:
        for item in inputs:
            put((item, None))
            if left.is_set():
                return
        put((None, StopIteration()))
    except Exception as fault:
        put((None, fault))


def _mean(windows):
    """The mean of the windows' outputs, each weighted by its tokens."""
    weights = [len(window["ids"]) for window, _ in windows]
    return sum(weight * output for weight, (_, output) in zip(weights, windows)) / sum(weights)


def _is_regression(config: AlbertConfig) -> bool:
    return config.problem_type == "regression" or config.problem_type is None and config.num_labels == 1


def _labels(folder: Path, config: AlbertConfig) -> list[str]:
    names = [(config.id2label or {}).get(index, f"LABEL_{index}") for index in range(config.num_labels)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ModelError(f"{folder / 'config.json'}: id2label: two labels have the name '{twice}'; give each its own")
    return names
