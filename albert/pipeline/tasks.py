"""The tasks: what each reads of its texts, and what it answers."""
import math
from numbers import Real
from pathlib import Path

import torch

from albert.config import AlbertConfig
from albert.errors import ModelError
from albert.models import (AlbertForMultipleChoice, AlbertForPretraining, AlbertForQuestionAnswering,
                           AlbertForSequenceClassification, AlbertForTokenClassification)
from albert.pipeline.base import Pipeline


class FillMask(Pipeline):
    """text with [MASK] in it → {"filled", the text with the likeliest pieces in place, "masks": [{"start", "end",
    "predictions": [{"token", "probability"}]}], "windows", those with a mask}."""
    columns = ("filled", "masks", "windows")
    model_class = AlbertForPretraining
    changes = {"sentence_objective": "none"}

    def set(self, top_k: int = 5):
        if isinstance(top_k, bool) or not hasattr(top_k, "__index__"):
            raise ModelError(f"top_k={top_k!r}: write a whole number")
        if not 1 <= top_k <= self.config.vocab_size:
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
                centrality = min(place, len(window["ids"]) - 1 - place)
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
        parts = ("pooler",) if self.pooling == "pooled" else ()
        return self._load_for(*parts, otherwise=": leave pooling at mean")

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
        self.regression = is_regression(self.config)
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
    """text, or a list of its words → {"entities": [{"label", "text", "start", "end", "probability"}], "windows"}, with
    character offsets (in the words parted by one blank each). Several inputs are a list of them: [["A", "word"]] is one.

    For the words see `data.words.word_spans`; for the entities, `joined` there.
    """
    model_class = AlbertForTokenClassification
    columns = ("entities", "windows")

    def set(self):
        self.labels = _labels(self.folder, self.config)

    def _checked(self, item):
        from data.words import Words

        if isinstance(item, list) and all(isinstance(word, str) for word in item):
            item = Words(" ".join(item))
        return super()._checked(item)

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
        if isinstance(doc_stride, bool) or not hasattr(self.doc_stride, "__index__") or self.doc_stride < 1:
            raise ModelError(f"doc_stride={doc_stride}: write a number of tokens from 1 on")
        if threshold is not None and (
                isinstance(threshold, bool) or not isinstance(threshold, Real) or not math.isfinite(threshold)):
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
        from data.spans import best_answers

        context = item[1]
        spans, nothing = best_answers(context, [(*logits, *(window[name] for name in ("first", "last", "central")))
                                                for window, logits in windows])
        score, start, end = spans[0] if spans else (None, None, None)
        if spans and self.threshold is not None and nothing - score > self.threshold:
            start = end = None
        return {"answer": "" if start is None else context[start:end], "start": start, "end": end, "score": score,
                "no_answer_score": nothing, "windows": len(windows)}


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


def _mean(windows):
    """The mean of the windows' outputs, each weighted by its tokens."""
    weights = [len(window["ids"]) for window, _ in windows]
    return sum(weight * output for weight, (_, output) in zip(weights, windows)) / sum(weights)


def is_regression(config: AlbertConfig) -> bool:
    return config.problem_type == "regression" or config.problem_type is None and config.num_labels == 1


def _labels(folder: Path, config: AlbertConfig) -> list[str]:
    names = [(config.id2label or {}).get(index, f"LABEL_{index}") for index in range(config.num_labels)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ModelError(f"{folder / 'config.json'}: id2label: two labels have the name '{twice}'; give each its own")
    return names
