"""main-inference.py and albert.pipeline over small checkpoints, beside 🤗 Transformers on the same weights."""
import csv
import datetime
import decimal
import io
import itertools
import json
import math
import logging
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow.parquet
import pytest
import torch
import transformers
from conftest import ROOT, refused
from safetensors.torch import load_file, save_file
from test_finetune import checkpoint  # noqa: F401

import albert
from albert import AlbertConfig, AlbertForPretraining, ModelError, pipeline
from albert.attention import KINDS
from albert.export import Plain, examples, export_onnx, export_torch, program, whole_model
from data.asking import file_rows
from data.conll import read_sentences
from data.features import features
from data.output import write_table
from data.tasks import Examples
from data.tokenizer import bert_tokenizer, for_masks, load_tokenizer, save_tokenizer
from data.words import Words, joined, word_spans

HEADS = {"pretraining": albert.AlbertForPretraining, "classes": albert.AlbertForSequenceClassification,
         "number": albert.AlbertForSequenceClassification, "tags": albert.AlbertForTokenClassification,
         "span": albert.AlbertForQuestionAnswering, "choice": albert.AlbertForMultipleChoice}
LABELS = {"classes": dict(id2label={0: "bad", 1: "good", 2: "so"}), "number": dict(num_labels=1, problem_type="regression"),
          "tags": dict(id2label={0: "B-LOC", 1: "I-LOC", 2: "O"})}


@pytest.fixture(scope="session")
def models(checkpoint, tmp_path_factory):  # noqa: F811
    """A folder with a new softmax model of every head, which 🤗 Transformers can read."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = load_tokenizer(checkpoint)
    for number, (name, kind) in enumerate(HEADS.items()):
        torch.manual_seed(number)
        kind(AlbertConfig(vocab_size=tokenizer.get_vocab_size(), embedding_size=16, hidden_size=32, num_hidden_layers=2,
                          num_attention_heads=2, intermediate_size=64, max_position_embeddings=40, initializer_range=0.3,
                          **LABELS.get(name, {}))).save_pretrained(folder / name)
        save_tokenizer(tokenizer, folder / name)
    return folder


TEXTS = ["sun gold joy", "the rain and the rust of it", "", "who lives in Rome", "grief"]


def test_fill_mask_as_transformers(models):
    texts = ["sun [MASK] joy", "the [MASK] and the [MASK] of it"]
    peer = transformers.pipeline("fill-mask", model=transformers.AlbertForMaskedLM.from_pretrained(models / "pretraining"),
                                 tokenizer=transformers.AutoTokenizer.from_pretrained(models / "pretraining"), top_k=5)
    ours = pipeline("fill-mask", models / "pretraining")(texts)
    for answer, theirs in zip(ours, peer(texts)):
        for mask, guesses in zip(answer["masks"], theirs if isinstance(theirs[0], list) else [theirs]):
            assert [guess["probability"] for guess in mask["predictions"]] == pytest.approx(
                [guess["score"] for guess in guesses], abs=1e-5)
            assert [guess["token"] for guess in mask["predictions"]] == [guess["token_str"].strip() for guess in guesses]
    first = ours[0]["masks"][0]
    assert (first["start"], first["end"]) == (4, 10)
    assert ours[0]["filled"] == f"sun {first['predictions'][0]['token']} joy"


@pytest.mark.parametrize("text, before, piece, after", [("sun [MASK]n joy", "sun", "n", "joy"), ("[MASK]o gold", "", "o", "gold"),
                                                        ("sun [MASK][MASK]s", "sun [MASK]", "s", "")])
def test_what_stands_by_a_mask_is_read_as_in_training(models, text, before, piece, after):
    """There the mask takes a piece's place; Transformers puts a `▁` of its own behind it."""
    tokenizer, model = load_tokenizer(models / "pretraining"), AlbertForPretraining.from_pretrained(models / "pretraining").eval()
    first, last = (tokenizer.encode(part, add_special_tokens=False).ids for part in (before, after))
    ids = torch.tensor([[2, *first, 4, tokenizer.token_to_id(piece), *last, 3]])
    with torch.no_grad():
        best, index = model(ids).mlm_logits[0][ids[0] == 4].softmax(-1).max(-1)
    masks = pipeline("fill-mask", models / "pretraining")(text)["masks"]
    assert [mask["predictions"][0]["probability"] for mask in masks] == pytest.approx(best.tolist(), abs=1e-6)
    assert [text[mask["start"]:mask["end"]] for mask in masks] == ["[MASK]"] * len(index)


def test_classes_as_transformers_in_any_company(models):
    peer = transformers.pipeline("text-classification", model=str(models / "classes"), top_k=None)
    classify = pipeline(None, models / "classes")
    alone = [classify(text) for text in TEXTS]
    for text, answer, together in zip(TEXTS, alone, classify(TEXTS)):
        if not text:
            assert answer == together == {}
            continue
        expected = {guess["label"]: guess["score"] for guess in peer([text])[0]}
        assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)
        assert together["probabilities"] == pytest.approx(expected, abs=1e-5)
        assert answer["label"] == max(expected, key=expected.get) and answer["windows"] == 1


def test_slow_inputs_are_answered_as_they_come(models):
    seen = threading.Semaphore(0)

    def one_after_the_other():
        for text in TEXTS:
            yield text
            assert seen.acquire(timeout=30), "the next input was wanted before this one was answered"
    answers = []
    for answer in pipeline(None, models / "classes").stream(one_after_the_other()):
        answers.append(answer)
        seen.release()
    assert [bool(answer) for answer in answers] == [bool(text) for text in TEXTS]


def test_a_program_that_asks_line_by_line(models):
    """And one whose wrong line ends the process while a thread of it waits for the next."""
    command = [sys.executable, ROOT / "main-inference.py", models / "pretraining", "-", "--cpu"]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        for text in ("sun [MASK]", "the [MASK] and", "[MASK]"):
            print(text, file=process.stdin, flush=True)
            assert json.loads(process.stdout.readline())["text"] == text
        print("sun", file=process.stdin, flush=True)
        assert process.wait(timeout=60) == 2
        error, = process.stderr.read().splitlines()
        assert "-: line 4: no [MASK]" in error


def test_pairs_numbers_and_sentence_order(models):
    tokenizer = load_tokenizer(models / "classes")
    encoding = tokenizer.encode("sun gold", "rain")
    ids, types = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
    with torch.no_grad():
        logits = albert.AlbertForSequenceClassification.from_pretrained(models / "classes")(ids, types)
        order = albert.AlbertForPretraining.from_pretrained(models / "pretraining")(ids, types).sop_logits
        number = albert.AlbertForSequenceClassification.from_pretrained(models / "number")(ids, types)
    answer = pipeline("pair", models / "classes")(("sun gold", "rain"))
    assert list(answer["probabilities"].values()) == pytest.approx(logits.softmax(-1)[0].tolist(), abs=1e-6)
    answer = pipeline("sentence-order", models / "pretraining")(("sun gold", "rain"))
    assert answer["in_order"] == pytest.approx(float(order.softmax(-1)[0, 0]), abs=1e-6) and answer["cut"] is False
    assert pipeline("pair", models / "number")(("sun gold", "rain"))["value"] == pytest.approx(float(number), abs=1e-6)
    assert "value" in pipeline(None, models / "number")("sun")
    assert pipeline("pair", models / "classes")(("sun " * 90, "rain"))["cut"] is True


def test_a_head_of_next_sentences_alone_as_transformers(models, tmp_path, caplog):
    save_tokenizer(load_tokenizer(models / "classes"), tmp_path)
    theirs = transformers.BertForNextSentencePrediction(transformers.BertConfig(
        vocab_size=load_tokenizer(models / "classes").get_vocab_size(), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, initializer_range=0.5)).eval()
    theirs.save_pretrained(tmp_path)
    answer = pipeline(None, tmp_path)(("sun gold", "rain"))
    encoding = load_tokenizer(tmp_path).encode("sun gold", "rain")
    with torch.no_grad():
        logits = theirs(torch.tensor([encoding.ids]), token_type_ids=torch.tensor([encoding.type_ids])).logits
    assert answer["follows"] == pytest.approx(float(logits.softmax(-1)[0, 0]), abs=1e-6)
    assert not [record for record in caplog.records if record.name == "albert"]
    with pytest.raises(albert.ModelError, match="can't do fill-mask; it can do sentence-order, embed"):
        pipeline("fill-mask", tmp_path)
    with pytest.raises(albert.ModelError, match="the head nextsentenceprediction can't be exported"):
        whole_model(tmp_path)
    weights = {name: weight for name, weight in load_file(tmp_path / "model.safetensors").items() if "cls" not in name}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(albert.ModelError, match="no sentence_head in this checkpoint"):
        pipeline("sentence-order", tmp_path)


@pytest.mark.parametrize("pooling", ["mean", "pooled"])
def test_embeddings(models, pooling):
    model, tokenizer = albert.Albert.from_pretrained(models / "classes"), load_tokenizer(models / "classes")
    embed = pipeline("embed", models / "classes", pooling=pooling)
    for text, answer in zip(TEXTS, embed(TEXTS)):
        if text:
            with torch.no_grad():
                hidden, pooled = model(torch.tensor([tokenizer.encode(text).ids]))
            expected = hidden[0].mean(0) if pooling == "mean" else pooled[0]
            torch.testing.assert_close(answer["embedding"], expected, atol=1e-5, rtol=0)
    unit = pipeline("embed", models / "classes", pooling=pooling, normalize=True)("sun")["embedding"]
    assert float(unit.norm()) == pytest.approx(1)


def test_a_long_text_is_read_in_windows(models):
    text = " ".join(["sun", "rain"] * 60)
    length = len(load_tokenizer(models / "classes").encode(text, add_special_tokens=False).ids)
    for task, name in (("classify", "classes"), ("embed", "classes"), ("tag", "tags"), ("regress", "number")):
        answer = pipeline(task, models / name)(text)
        assert answer["windows"] == 1 + -(-(length - 38) // 29)             # of 38 tokens, one every 38 - 9
    entities = pipeline("tag", models / "tags")(text)["entities"]
    assert entities and all(text[e["start"]:e["end"]] == e["text"] for e in entities)
    answer = pipeline("fill-mask", models / "pretraining")(f"{text} [MASK] {text}")
    assert len(answer["masks"]) == 1 and answer["filled"].startswith(text) and answer["filled"].endswith(text)


def test_windows_count_by_their_tokens(models):
    ask, text = pipeline("regress", models / "number"), " ".join(["sun", "rain"] * 60)
    windows, = ask.rows([(text,)])
    values, sizes = [float(number) for number in range(len(windows))], [len(window["ids"]) for window in windows]
    assert len(set(sizes)) > 1
    assert ask.answer((text,), list(zip(windows, values)))["value"] == pytest.approx(np.average(values, weights=sizes))


@pytest.mark.parametrize("before, better", [(15, 0), (18, 1)])
def test_a_mask_in_two_windows_is_guessed_where_it_stands_more_centrally(models, before, better):
    fill = pipeline("fill-mask", models / "pretraining", top_k=1)
    text = " ".join(["."] * before + ["[MASK]"] + ["."] * 12)                # "." is two tokens; windows overlap by 9 of 38
    windows, = fill.rows([(text,)])
    kept = [(window, (torch.tensor([[token]]), torch.tensor([[0.5]])))
            for window, token in zip(windows, (10, 11), strict=True)]
    for order in (kept, kept[::-1]):
        guess = fill.answer((text,), order)["masks"][0]["predictions"][0]["token"]
        assert guess == fill.tokenizer.decode([10 + better])


def test_a_word_in_two_windows_is_tagged_where_it_stands_more_centrally(models):
    tag, text = pipeline("tag", models / "tags"), " ".join(["."] * 30)
    windows, = tag.rows([(text,)])
    kept = [(window, ([label] * len(window["ids"]), [0.5] * len(window["ids"])))
            for window, label in zip(windows, (0, 2), strict=True)]         # of the first all words are B-LOC
    first, second = (window["words"] for window in windows)
    both = set(first) & set(second)
    nearer = {word for word in both if second.index(word) > len(first) - 1 - first.index(word)}
    assert nearer and both - nearer
    assert {entity["start"] // 2 for entity in tag.answer((text,), kept)["entities"]} == set(first) - nearer


def test_entities(models):
    tag = pipeline("tag", models / "tags")
    names = {"sun": "B-LOC", "gold": "I-LOC", "rain": "I-LOC", ".": "O"}
    text = "sun gold. rain sun gold"
    words = ["sun", "gold", ".", "rain", "sun", "gold"]
    row, = tag.rows([(text,)])
    window, = row
    labels = [2] * len(window["ids"])
    for place, word in enumerate(window["words"]):
        labels[place + 1] = ["B-LOC", "I-LOC", "O"].index(names[words[word]])
    answer = tag.answer((text,), [(window, (labels, [0.5] * len(labels)))])
    assert [(e["text"], e["label"], e["start"], e["end"]) for e in answer["entities"]] == [
        ("sun gold", "LOC", 0, 8), ("rain", "LOC", 10, 14), ("sun gold", "LOC", 15, 23)]
    for schemes in (["S-LOC", "E-LOC", "B-LOC", "I-LOC", "O"], ["U-LOC", "L-LOC", "B-LOC", "I-LOC", "O"]):
        tag.labels = schemes
        alone = [2, 3, 1, 1, 0, 3]                              # sun gold . | rain | sun | gold
        for place, word in enumerate(window["words"]):
            labels[place + 1] = alone[word]
        answer = tag.answer((text,), [(window, (labels, [0.5] * len(labels)))])
        assert [(e["text"], e["label"]) for e in answer["entities"]] == [
            ("sun gold.", "LOC"), ("rain", "LOC"), ("sun", "LOC"), ("gold", "LOC")]
    for place, word in enumerate(window["words"]):
        labels[place + 1] = ["B-LOC", "I-LOC", "O"].index(names[words[word]])
    tag.labels = ["B-date-time", "I-date-time", "O"]
    answer = tag.answer((text,), [(window, (labels, [0.5] * len(labels)))])
    assert [(e["text"], e["label"]) for e in answer["entities"]] == [
        ("sun gold", "date-time"), ("rain", "date-time"), ("sun gold", "date-time")]


def test_answers_as_transformers(models):
    question, context = "who lives in Rome", "the sun and Anna lives in Rome here"
    answer = pipeline("qa", models / "span")((question, context))
    assert answer["answer"] and context[answer["start"]:answer["end"]] == answer["answer"]
    encoding = load_tokenizer(models / "span").encode(question, context)
    with torch.no_grad():
        out = albert.AlbertForQuestionAnswering.from_pretrained(models / "span")(
            torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids]))
    start, end = out.start_logits[0], out.end_logits[0]
    inside = [place for place, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
    best = max(float(start[a] + end[b]) for a in inside for b in inside if a <= b < a + 30)
    assert answer["score"] == pytest.approx(best, abs=1e-5)
    assert answer["no_answer_score"] == pytest.approx(float(start[0] + end[0]), abs=1e-5)
    odds = answer["no_answer_score"] - answer["score"]
    assert pipeline("qa", models / "span", threshold=odds + 1)((question, context))["answer"] == answer["answer"]
    assert pipeline("qa", models / "span", threshold=np.float32(odds + 1), doc_stride=np.int64(9))(
        (question, context))["answer"] == answer["answer"]
    assert pipeline("qa", models / "span", threshold=odds - 1)((question, context))["answer"] == ""
    for stride in (-5, 0, 1.5, "x"):
        with pytest.raises(albert.ModelError, match=f"doc_stride={stride}: write a number of tokens"):
            pipeline("qa", models / "span", doc_stride=stride)


def test_windows_of_a_context_overlap(models):
    answer = pipeline("qa", models / "span")
    windows, = answer.rows([("who", "sun rain " * 60)])
    starts = [int(window["first"][window["first"] >= 0][0]) for window in windows]
    ends = [int(window["last"].max()) for window in windows]
    assert len(windows) > 3 and all(start < end for start, end in zip(starts[1:], ends))


def test_the_score_of_no_answer_is_the_least_of_all_windows(models):
    answer, item = pipeline("qa", models / "span"), ("who", "sun rain " * 60)
    windows, = answer.rows([item])
    kept = []
    for number, window in enumerate(windows):
        logits = np.zeros(len(window["ids"]))
        logits[0] = 2 if number == 1 else number + 3
        kept.append((window, (logits, logits)))
    assert len(windows) > 3 and answer.answer(item, kept)["no_answer_score"] == 4


def test_choices(models):
    item = ("sun gold joy", "who", ["rain", "gold", "rust"])
    answer = pipeline("choose", models / "choice")(item)
    assert sum(answer["probabilities"]) == pytest.approx(1) and answer["option"] == item[2][answer["choice"]]
    swapped = pipeline("choose", models / "choice")((*item[:2], item[2][::-1]))
    assert swapped["probabilities"] == pytest.approx(answer["probabilities"][::-1], abs=1e-6)
    choose = pipeline("choose", models / "choice")
    assert choose([("", "who", ["", "gold"]), ("", " ", ["sun", "gold"])])[1] == {}
    assert sum(choose(("", "who", ["", "gold"]))["probabilities"]) == pytest.approx(1)


def test_choices_are_asked_as_they_were_learnt(models):
    article, question, options = item = "sun gold joy", "who", ["rain", "gold", "rust"]
    choose = pipeline("choose", models / "choice")
    examples = Examples(["0"], {"article": [article], "question": [question], "options": [options]}, [0])
    batch, (rows,) = features("choice", examples, choose.tokenizer, 40)[0].batch([0]), choose.rows([item])
    learnt = [ids[mask].tolist() for ids, mask in zip(batch["input_ids"][0], batch["attention_mask"][0])]
    pairs = [choose.tokenizer.encode(article, f"{question} {option}") for option in options]
    assert [row["ids"] for row in rows] == learnt == [pair.ids for pair in pairs]
    assert [row["types"] for row in rows] == [pair.type_ids for pair in pairs]


def test_a_checkpoint_that_names_no_architecture(models, tmp_path):
    """As the first published configurations: its weights tell."""
    for name, task in (("pretraining", "fill-mask"), ("span", "qa"), ("classes", "embed")):
        shutil.copytree(models / name, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        del config["architectures"]
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        item = ("who", "Anna") if task == "qa" else "[MASK] sun"
        assert pipeline(None, tmp_path / name).columns == pipeline(task, models / name).columns
        assert str(pipeline(None, tmp_path / name)(item)) == str(pipeline(task, models / name)(item))
    assert "in_order" in pipeline("sentence-order", tmp_path / "pretraining")(("sun", "rain"))


def test_what_a_checkpoint_cannot_do(models):
    for task, name, words in (("qa", "classes", "it can do classify, pair, embed"), ("tag", "span", "qa, embed"),
                              ("dance", "classes", "fill-mask"), ("fill-mask", "tags", "tag, embed")):
        with pytest.raises(albert.ModelError, match=words):
            pipeline(task, models / name)
    with pytest.raises(albert.ModelError, match="no .MASK. in the text"):
        pipeline("fill-mask", models / "pretraining")("sun")
    with pytest.raises(albert.ModelError, match="no option 'top_k'"):
        pipeline("tag", models / "tags", top_k=3)
    with pytest.raises(albert.ModelError, match="first and second, not 1 text"):
        pipeline("pair", models / "classes")("sun")
    with pytest.raises(albert.ModelError, match="options is a str, not a list"):
        pipeline("choose", models / "choice")(("sun", "who", "rain"))


def ask(*args, text=None, **kwargs):
    return subprocess.run([sys.executable, ROOT / "main-inference.py", *map(str, args), "--cpu"], input=text, cwd=ROOT,
                          capture_output=True, **kwargs)


@pytest.mark.parametrize("task, name, item", [
    ("pair", "classes", ("sun gold", "rain")), ("tag", "tags", ("sun gold. rain",)),
    ("qa", "span", ("who lives in Rome", "the sun and Anna lives in Rome here")),
    ("choose", "choice", ("sun gold joy", "who", ["rain", "gold", "rust"]))])
def test_tasks_of_several_texts_from_the_command_line(inference, models, tmp_path, task, name, item):
    ask = pipeline(task, models / name)
    expected = ask(item)
    texts = [text for part in item for text in (part if isinstance(part, list) else [part])]
    (tmp_path / "lines.txt").write_text("\t".join(texts) + "\n\n")
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        csv.writer(file).writerows([["id", *ask.inputs], ["x", *(part if isinstance(part, str) else " | ".join(part)
                                                                 for part in item)]])
    (tmp_path / "rows.jsonl").write_text(json.dumps(dict(zip(ask.inputs, item)) | {"id": "x"}) + "\n")
    for inputs in (texts, [tmp_path / "lines.txt"], [tmp_path / "rows.csv"], [tmp_path / "rows.jsonl"]):
        result = inference([str(models / name), *map(str, inputs), "--task", task, "--format", "jsonl", "--cpu"])
        assert result.code == 0, result.err
        answer, *rest = map(json.loads, result.out.splitlines())
        assert {column: answer[column] for column in expected} == expected
        assert answer.get("id") == ("x" if str(inputs[0]).endswith(("csv", "jsonl")) else None)
        assert rest == ([dict.fromkeys(ask.inputs, "")] if str(inputs[0]).endswith("txt") else [])


def test_options_before_and_after_texts(inference, models):
    fill = ["sun [MASK] joy", "--top-k", "2"]
    for args in ([str(models / "pretraining"), *fill], ["--top-k", "2", str(models / "pretraining"), fill[0]]):
        result = inference([*args, "--format", "json", "--cpu"])
        assert result.code == 0, result.err
        answer, = json.loads(result.out)
        assert len(answer["masks"][0]["predictions"]) == 2
    table = inference([str(models / "pretraining"), *fill, "--cpu"]).out
    assert "masks" in table and "sun" in table


def test_files_come_back_in_order_with_their_columns(inference, models, tmp_path):
    rows = [{"id": str(number), "review": text} for number, text in enumerate(TEXTS)]
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.DictWriter(file, ["id", "review"]).writeheader()
        csv.DictWriter(file, ["id", "review"]).writerows(rows)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = pipeline(None, models / "classes")(TEXTS)
    for name in ("a.csv", "a.jsonl"):
        result = inference([str(models / "classes"), str(tmp_path / name), "--text", "review", "--cpu"])
        answers = [json.loads(line) for line in result.out.splitlines()]
        assert [(a["id"], a["review"]) for a in answers] == [(row["id"], row["review"]) for row in rows]
        assert [a.get("label") for a in answers] == [a.get("label") for a in expected]
        result = inference([str(models / "classes"), str(tmp_path / name), "--text", "review", "--format", "csv", "--cpu"])
        answers = list(csv.DictReader(io.StringIO(result.out)))
        assert [a["label"] for a in answers] == [a.get("label", "") for a in expected]
    refused(inference([str(models / "classes"), str(tmp_path / "a.csv"), "--cpu"]), "a.csv: line 2", "id, review", "--text")


def test_lines_and_a_run_that_goes_on(inference, models, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(TEXTS) + "\n")
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    assert inference([str(models / "classes"), str(lines), "--output", str(whole), "--cpu"]).code == 0
    part.write_bytes(whole.read_bytes()[:200])                                  # cut within a line
    assert inference([str(models / "classes"), str(lines), "--output", str(part), "--append", "--cpu"]).code == 0
    answers, others = ([json.loads(line) for line in path.read_text().splitlines()] for path in (part, whole))
    assert [answer["text"] for answer in answers] == TEXTS and answers[2] == {"text": ""}
    for answer, other in zip(answers, others):
        assert answer.get("probabilities", {}) == pytest.approx(other.get("probabilities", {}), abs=1e-6)
    assert inference([str(models / "classes"), str(lines), "--output", str(whole), "--cpu"]).code == 2
    table = tmp_path / "table.csv"
    for _ in range(2):
        assert inference([str(models / "classes"), str(lines), "--output", str(table), "--append", "--cpu"]).code == 0
        assert len(list(csv.DictReader(open(table)))) == len(TEXTS)
    assert inference([str(models / "classes"), "--task", "embed", str(lines), "--output", str(tmp_path / "e.npy"),
                      "--cpu"]).code == 0
    array = np.load(tmp_path / "e.npy")
    assert array.shape == (len(TEXTS), 32) and not array[2].any() and array[0].any()
    (tmp_path / "g.npy.part").write_bytes(array.tobytes()[:200])                # interrupted within the second row
    again = [str(models / "classes"), "--task", "embed", str(lines), "--output", str(tmp_path / "g.npy"), "--append",
             "--cpu"]
    assert inference(again).code == 0
    np.testing.assert_allclose(np.load(tmp_path / "g.npy"), array, rtol=1e-6, atol=1e-6)     # other batches, other sums
    assert not (tmp_path / "g.npy.part").exists()
    refused(inference(again), "g.npy", "whole")
    (tmp_path / "h.npy.part").write_bytes(array.tobytes())                      # rows that nobody said to drop
    assert inference([*again[:5], str(tmp_path / "h.npy"), "--cpu"]).code == 2
    assert (tmp_path / "h.npy.part").stat().st_size == array.nbytes
    refused(inference([str(models / "classes"), str(lines), "--output", str(tmp_path / "f.npy"), "--cpu"]), "embed")
    for part in (array[[1, 0]], np.concatenate([array, array])):                # of another input, and of a longer one
        (tmp_path / "g.npy").unlink(missing_ok=True)
        (tmp_path / "g.npy.part").write_bytes(part.tobytes())
        refused(inference(again), "g.npy", "not to row", "of this input")
        assert (tmp_path / "g.npy.part").read_bytes() == part.tobytes()


@pytest.mark.parametrize("cut", [3, 40, 60, 80, 100, 150, 400])
def test_a_table_cut_anywhere_goes_on(inference, models, tmp_path, cut):
    rows = [{"id": number, "text": text} for number, text in enumerate(["a \u2028 b", 'sun "gold"', "sun\nrain", "x\ry", ""])]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole, part = tmp_path / "whole.csv", tmp_path / "part.csv"
    command = [str(models / "number"), str(tmp_path / "rows.jsonl"), "--cpu", "--output"]
    assert inference([*command, str(whole)]).code == 0
    part.write_bytes(whole.read_bytes()[:cut])
    assert inference([*command, str(part), "--append"]).code == 0
    with open(part, newline="", encoding="utf-8") as one, open(whole, newline="", encoding="utf-8") as other:
        answers, expected = list(csv.DictReader(one)), list(csv.DictReader(other))
    assert [(a["id"], a["text"]) for a in expected] == [(str(row["id"]), row["text"]) for row in rows]
    assert [(a["id"], a["text"], a["windows"]) for a in answers] == [(a["id"], a["text"], a["windows"]) for a in expected]
    assert expected[-1]["value"] == ""


def test_columns_are_kept_and_faults_name_their_row(inference, models, tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("text,label\nsun,gold\n")
    answer = json.loads(inference([str(models / "classes"), str(table), "--cpu"]).out)
    assert answer["label"] == "gold" and answer["answer_label"] in ("good", "bad", "so")
    (tmp_path / "one.csv").write_text("text\nsun\n\nrain\n")
    answers = inference([str(models / "classes"), str(tmp_path / "one.csv"), "--cpu"]).out.splitlines()
    assert len(answers) == 3 and json.loads(answers[1]) == {"text": ""}
    lines = tmp_path / "a.txt"
    lines.write_text("sun [MASK]\nnone\n")
    result = inference([str(models / "pretraining"), str(lines), "--cpu"])
    assert len(result.out.splitlines()) == 1
    refused(result, "a.txt: line 2", "no [MASK]")
    for row, words in (({"text": 5}, "holds int"), ({"review": "x"}, "no column 'text'")):
        (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
        refused(inference([str(models / "classes"), str(tmp_path / "a.jsonl"), "--cpu"]), "a.jsonl", "line 1", words)
    (tmp_path / "q.jsonl").write_text('{"question": "", "context": "sun"}\n')
    assert json.loads(inference([str(models / "span"), str(tmp_path / "q.jsonl"), "--cpu"]).out)["question"] == ""
    for flags in (["--text", "foo"], ["--output", str(tmp_path / "none" / "o.csv")], [str(table)], ["--interactive"]):
        assert inference([str(models / "classes"), "sun", *flags, "--cpu"]).code == 2
    refused(inference([str(models / "pretraining"), "a [MASK]", "--top-k", "0", "--cpu"]), "top_k=0")
    refused(inference([str(models / "classes"), "caf\udce9", "--cpu"]), "UTF-8")
    assert inference([str(models / "classes"), "sun", "--output", str(tmp_path / "o.csv"), "--append", "--cpu"]).code == 2
    (tmp_path / "folder.csv").mkdir()
    refused(inference([str(models / "classes"), str(lines), "--output", str(tmp_path / "folder.csv"), "--append", "--cpu"]),
            "folder.csv")


def test_a_csv_of_ragged_rows_and_of_values_of_other_kinds(inference, models, tmp_path):
    (tmp_path / "ragged.jsonl").write_text('{"text": "sun", "label": "x"}\n{"text": "rain"}\n')
    result = inference([str(models / "classes"), str(tmp_path / "ragged.jsonl"), "--format", "csv", "--cpu"])
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert [row["label"] for row in rows] == ["x", ""] and all(row["answer_label"] for row in rows)
    when, amount = datetime.datetime(2024, 1, 2, 3, 4), decimal.Decimal("1.50")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["sun"], "when": [when], "amount": [amount]}), tmp_path / "a.parquet")
    result = inference([str(models / "classes"), str(tmp_path / "a.parquet"), "--format", "csv", "--cpu"])
    row, = csv.DictReader(io.StringIO(result.out))
    assert (row["when"], row["amount"]) == ("2024-01-02 03:04:00", "1.50")


def test_rows_with_and_without_a_field_of_an_answer_s_name(inference, models, tmp_path):
    """What is answered has one name in all rows, so that it is never taken for what was given."""
    rows = [{"text": "sun"}, {"text": "", "label": "gold"}, {"text": "rain", "extra": float("nan")}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [str(models / "classes"), str(tmp_path / "a.jsonl"), "--cpu", "--output"]
    assert inference([*command, str(tmp_path / "o.csv")]).code == 0 and inference([*command, str(tmp_path / "o.jsonl")]).code == 0
    with open(tmp_path / "o.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0])[:4] == ["text", "label", "extra", "answer_label"]
    assert [row["label"] for row in table] == ["", "gold", ""] and [bool(row["answer_label"]) for row in table] == [True, False, True]
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [row.get("label") for row in lines] == [None, "gold", None] and lines[2]["extra"] is None
    assert [row.get("answer_label", "") for row in lines] == [row["answer_label"] for row in table]


def test_what_is_not_gone_on_with_stays_as_it_is(inference, models, tmp_path):
    (tmp_path / "in.csv").write_text("text,label\nsun,1\nrain,0")
    (tmp_path / "in.jsonl").write_text('{"text": "sun"}\n{"text": "rain"}')
    files = {"other.csv": "name,amount\nann,10\nbob,20", "other.jsonl": '{"keep": 1}\n{"keep": 2}', "line.jsonl": '{"keep": 1}',
             "in.csv": (tmp_path / "in.csv").read_text(), "in.jsonl": (tmp_path / "in.jsonl").read_text(),
             "half.jsonl": '{"text": "sun", "label": "good", "windows": 1}\n{"text": "ra'}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    for source, output, words in (("in.csv", "other.csv", "no answers"), ("in.csv", "other.jsonl", "no answers"),
                                  ("in.jsonl", "line.jsonl", "no answers"), ("in.csv", "in.csv", "the texts stand there"),
                                  ("in.jsonl", "in.jsonl", "the texts stand there")):
        refused(inference([str(models / "classes"), str(tmp_path / source), "--output", str(tmp_path / output), "--append",
                           "--cpu"]), output, words)
    refused(inference([str(models / "classes"), str(tmp_path / "in.jsonl"), "--text", "none", "--output",
                       str(tmp_path / "half.jsonl"), "--append", "--cpu"]), "no column 'none'")
    for task, words in (("classify", "answer 1 is not to row 1"), ("embed", "no answers")):      # of another text, task
        (tmp_path / "in2.jsonl").write_text('{"text": "snow"}\n{"text": "rain"}')
        source = "in2" if task == "classify" else "in"
        refused(inference([str(models / "classes"), "--task", task, str(tmp_path / f"{source}.jsonl"), "--output",
                           str(tmp_path / "half.jsonl"), "--append", "--cpu"]), "half.jsonl", words)
    assert {name: (tmp_path / name).read_text() for name in files} == files


def test_a_table_without_rows(inference, models, tmp_path):
    (tmp_path / "a.csv").write_text("review\n")
    refused(inference([str(models / "classes"), str(tmp_path / "a.csv"), "--cpu"]), "no column 'text'", "review")
    result = inference([str(models / "classes"), str(tmp_path / "a.csv"), "--text", "review", "--format", "csv", "--cpu"])
    assert result.code == 0 and result.out == "review,label,probability,probabilities,windows\r\n"


def test_options_are_two_at_least_or_none(inference, models, tmp_path):
    table = tmp_path / "a.csv"
    table.write_text('article,question,options\nA,q,\nA,q,"[1, 2.5]"\n')
    first, second = map(json.loads, inference([str(models / "choice"), str(table), "--cpu"]).out.splitlines())
    assert first == {"article": "A", "question": "q", "options": ""} and second["option"] in ("1", "2.5")
    table.write_text("article,question,options\nA,q,one\n")
    refused(inference([str(models / "choice"), str(table), "--cpu"]), "a.csv: row 1", "two to choose from")


def test_words_that_are_numbers_are_words(inference, models, tmp_path):
    words = ["sun", "on", 1999]
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": words}) + "\n")
    (tmp_path / "a.csv").write_text('text\n"' + json.dumps(words).replace('"', '""') + '"\n')
    expected = pipeline("tag", models / "tags")("sun on 1999")["entities"]
    for name in ("a.jsonl", "a.csv"):
        answer = json.loads(inference([str(models / "tags"), str(tmp_path / name), "--cpu"]).out)
        assert [(e["start"], e["end"], e["label"]) for e in answer["entities"]] == [
            (e["start"], e["end"], e["label"]) for e in expected]


@pytest.mark.parametrize("task, head, option", [
    ("qa", "span", {"threshold": "x"}), ("qa", "span", {"threshold": math.nan}), ("qa", "span", {"doc_stride": True}),
    ("fill-mask", "pretraining", {"top_k": True}), ("embed", "classes", {"normalize": 3})])
def test_options_of_a_wrong_kind(models, task, head, option):
    with pytest.raises(ModelError, match=f"{next(iter(option))}="):
        pipeline(task, models / head, **option)


def test_a_folder_is_no_text(inference, models, tmp_path):
    refused(inference([str(models / "classes"), str(tmp_path), "--cpu"]), str(tmp_path), "give one file")


def test_a_start_that_fails_leaves_no_file(inference, models, tmp_path):
    (tmp_path / "a.csv").write_text("review\nsun\n")
    for output in ("o.jsonl", "o.csv", "o.npy"):
        refused(inference([str(models / "classes"), str(tmp_path / "a.csv"), "--task", "embed", "--output",
                           str(tmp_path / output), "--cpu"]), "no column 'text'")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_columns_of_any_name_and_value(inference, models, tmp_path):
    row = {"text": "sun", "label": "x", "answer_label": "y", "share": 1e-8, "more": {"label": 3}}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    ask_for = [str(models / "classes"), str(tmp_path / "a.jsonl"), "--cpu", "--format"]
    answer = json.loads(inference([*ask_for, "jsonl"]).out)
    assert row.items() <= answer.items() and answer["answer_answer_label"] in ("good", "bad", "so")
    answer, = csv.DictReader(io.StringIO(inference([*ask_for, "csv"]).out))
    assert (float(answer["share"]), answer["label"], answer["answer_label"]) == (1e-8, "x", "y")
    assert '{"label": 3}' in inference([*ask_for, "table"]).out


def test_pooled_needs_a_pooler(models, capsys):
    with pytest.raises(albert.ModelError, match="no pooler"):
        pipeline("embed", models / "tags", pooling="pooled")
    pipeline("embed", models / "tags")("sun")
    assert "anew" not in capsys.readouterr().err
    assert logging.getLogger("albert").isEnabledFor(logging.WARNING)


def settle(folder, **values):
    """Write into a model's config.json what a fine-tuning settles beside the weights."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"finetuned": values}))


def test_a_model_of_pairs_answers_pairs_in_the_length_it_learned(models, tmp_path):
    model = shutil.copytree(models / "classes", tmp_path / "model")
    settle(model, inputs=["text", "pair"], seq_len=12)
    ask = pipeline(None, model)
    assert ask.inputs == ("first", "second")
    (row,), = ask.rows([("sun " * 20, "rain " * 20)])
    assert len(row["ids"]) == 12 and row["cut"]
    settle(model, inputs=["text", "pair"], seq_len=512)
    assert pipeline(None, model).length == 40


def test_a_checkpoint_named_from_where_it_lies(models, tmp_path, monkeypatch):
    settle(shutil.copytree(models / "classes", tmp_path / "run" / "checkpoints" / "step-0000001"), inputs=["text", "pair"])
    (tmp_path / "best").symlink_to(tmp_path / "run" / "checkpoints" / "step-0000001")
    (tmp_path / "run" / "checkpoints" / "step-0000001" / ".DS_Store").touch()
    monkeypatch.chdir(tmp_path / "run" / "checkpoints" / "step-0000001")
    for name in (".", "../step-0000001", tmp_path / "best", tmp_path / "run"):
        assert pipeline(None, name).inputs == ("first", "second")


def test_a_tokenizer_of_other_weights(models, tmp_path):
    shutil.copytree(models / "classes", tmp_path / "model")
    tokenizer = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"].append(["new", -9.0])
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(albert.ModelError, match="do not belong together"):
        pipeline(None, tmp_path / "model")


def test_a_vocabulary_with_a_piece_twice_has_an_id_more_than_pieces(models, tmp_path):
    shutil.copytree(models / "classes", tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    size = albert.AlbertForSequenceClassification.from_pretrained(models / "classes").config.vocab_size
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sun", "sun", *(f"w{n}" for n in range(size - 6))]
    (tmp_path / "model" / "vocab.txt").write_text("\n".join(pieces))
    with pytest.raises(albert.ModelError, match="do not belong together"):
        pipeline(None, tmp_path / "model")


def test_standard_input_and_output(models):
    done = ask(models / "classes", "-", text="sun\nrain\n".encode())
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2 and not done.stderr
    marked = ask(models / "classes", "-", text="\ufeffsun\nrain\n".encode())
    assert marked.stdout == done.stdout
    done = ask(models / "classes", "-", text=b"sun\n\xff\n")
    assert done.returncode == 2 and b"line 2" in done.stderr and b"Traceback" not in done.stderr
    process = subprocess.Popen(f"yes sun | '{sys.executable}' '{ROOT / 'main-inference.py'}' '{models / 'classes'}' - --cpu "
                               "| head -n 3", shell=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL), env=os.environ)
    out, err = process.communicate(timeout=60)
    assert len(out.splitlines()) == 3 and not err


def test_interactive(inference, models, monkeypatch):
    asked = iter(["sun [MASK]", "no mask here", "gold [MASK]"])

    def answer(prompt):
        try:
            return next(asked)
        except StopIteration:
            raise EOFError from None
    monkeypatch.setattr("builtins.input", answer)
    result = inference([str(models / "pretraining"), "--interactive", "--cpu"])
    assert result.code == 0 and "filled" in result.out and "no [MASK]" in result.out and "gold" in result.out


@pytest.mark.parametrize("name", list(HEADS))
def test_exported_programs(inference, models, tmp_path, name):
    tmp_path = tmp_path / "not" / "there"
    result = inference([str(models / name), "--export", "torch", "--output", str(tmp_path)])
    assert result.code == 0, result.err
    model = whole_model(models / name)
    inputs = examples(model, 3, 33)
    found = torch.export.load(tmp_path / "model.pt2").module()(*inputs)
    for ours, theirs in zip(found, Plain(model)(*inputs), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert "2 to 40 tokens" in result.out
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((models / name / "config.json").read_text())
    for flags in (["--quantize", "int8"], ["--precision", "bf16"]):
        assert inference([str(models / name), "--export", "torch", "--output", str(tmp_path), *flags]).code == 2
    plain = load_tokenizer(models / name)
    assert load_tokenizer(tmp_path).to_str() == (for_masks(plain)[0] if name == "pretraining" else plain).to_str()


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in ("pretraining", "choice") else pytest.mark.slow)
                                  for name in HEADS])
def test_onnx_of_every_head(inference, models, tmp_path, name):
    pytest.importorskip("onnxscript")
    tmp_path = tmp_path / "new"
    result = inference([str(models / name), "--export", "onnx", "--output", str(tmp_path)])
    assert result.code == 0 and "differs from PyTorch" in result.out, result.err
    assert (tmp_path / "config.json").exists() and (tmp_path / "model.onnx").stat().st_size > 10_000


@pytest.mark.parametrize("attention", ["softmax", "nystrom", *(
    pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in ("softmax", "nystrom"))])
def test_onnx(models, tmp_path, attention):
    pytest.importorskip("onnxscript")
    model = albert.AlbertForQuestionAnswering(AlbertConfig(
        vocab_size=50, embedding_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40, attention=attention, num_landmarks=8, attention_window=8, block_size=4,
        blocks_per_row=2, conv_kernel_size=5, initializer_range=0.3))
    assert export_onnx(model, tmp_path / "model.onnx") < 1e-4           # it runs onnxruntime on other sizes
    assert (tmp_path / "model.onnx").stat().st_size > 10_000


@pytest.mark.parametrize("attention", ["local", "mra"])
def test_programs_take_lengths_that_fill_their_blocks_and_others(attention):
    model = albert.Albert(AlbertConfig(
        vocab_size=50, embedding_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=64, attention=attention, attention_window=32, block_size=8, blocks_per_row=2))
    run = program(model).module()
    for length in (17, 24, 32, 33, 64):
        inputs = examples(model, 2, length)
        torch.testing.assert_close(run(*inputs), Plain(model)(*inputs), atol=1e-5, rtol=0)


def test_programs_of_multiple_choice_take_any_number_of_options(models, tmp_path):
    pytest.importorskip("onnxscript")
    import onnxruntime

    model = albert.AlbertForMultipleChoice.from_pretrained(models / "choice")
    export_onnx(model, tmp_path / "model.onnx")
    export_torch(model, tmp_path / "model.pt2")
    session, program = onnxruntime.InferenceSession(tmp_path / "model.onnx"), torch.export.load(tmp_path / "model.pt2").module()
    for shape in ((1, 4, 16), (3, 5, 9)):
        ids = torch.randint(5, 20, shape)
        inputs = dict(input_ids=ids, token_type_ids=torch.zeros_like(ids), attention_mask=torch.ones_like(ids))
        with torch.no_grad():
            expected = model(*inputs.values())
            assert torch.allclose(program(*inputs.values())[0], expected, atol=1e-5)
        found, = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4)


def test_heads_compute_in_float32_beside_a_bf16_encoder(models):
    model = albert.AlbertForSequenceClassification.from_pretrained(models / "number")
    model.classifier.linear.bias.data.fill_(100.0)
    ids = torch.randint(5, 20, (32, 16))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        values = model(ids)
    assert values.dtype == torch.float32 and len(values.unique()) == 32          # in bf16 100 is followed by 100.5


def test_one_label_of_several_is_no_number(models, tmp_path):
    shutil.copytree(models / "number", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))
    value, answer = pipeline(None, models / "number")("sun")["value"], pipeline(None, tmp_path / "model")("sun")
    assert answer["probabilities"] == {"LABEL_0": pytest.approx(1 / (1 + np.exp(-value)), abs=1e-6)}


def test_a_model_of_one_segment_reads_two_texts(models, tmp_path):
    shutil.copytree(models / "classes", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    weights = load_file(tmp_path / "model" / "model.safetensors")
    name = "albert.embeddings.token_type_embeddings.weight"
    save_file(weights | {name: weights[name][:1].clone()}, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"type_vocab_size": 1}))
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        logits = peer(torch.tensor([load_tokenizer(tmp_path / "model").encode("sun gold", "rain").ids])).logits
    answer = pipeline("pair", tmp_path / "model")(("sun gold", "rain"))
    assert list(answer["probabilities"].values()) == pytest.approx(logits.softmax(-1)[0].tolist(), abs=1e-6)


def test_hugging_face_folder(inference, models, tmp_path):
    result = inference([str(models / "classes"), "--export", "hf", "--output", str(tmp_path)])
    assert result.code == 0 and "Transformers too" in result.out
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = peer(**tokenizer("sun gold", return_tensors="pt")).logits.softmax(-1)[0].tolist()
    assert list(pipeline(None, tmp_path)("sun gold")["probabilities"].values()) == pytest.approx(expected, abs=1e-5)


def test_an_exported_model_answers_as_the_model(inference, models, tmp_path):
    """What a fine-tuning settles beside the weights: that it reads pairs, its threshold of no answer, its stride. Loaded and
    saved it is there too."""
    for name, inputs, threshold in (("classes", ["text", "pair"], 1e3), ("span", ["question", "context"], -1e3),
                                    ("span", ["question", "context"], 1e3)):
        model, exported = (tmp_path / f"{kind} {name} {threshold}" for kind in ("asked", "exported"))
        settle(shutil.copytree(models / name, model), inputs=inputs, doc_stride=3, seq_len=40, threshold=threshold)
        item = ("sun gold", "rain " * 40)
        assert inference([str(model), "--export", "hf", "--output", str(exported)]).code == 0
        answer = pipeline(None, exported)(item)
        assert answer == pipeline(None, model)(item)
        if name == "span":
            assert (answer["answer"] == "") == (threshold < 0) and answer["windows"] > 10
    whole_model(exported).save_pretrained(exported)
    assert pipeline(None, exported).doc_stride == 3
    albert.Albert.from_pretrained(exported).save_pretrained(tmp_path / "encoder")         # of another model it is nothing
    assert "finetuned" not in json.loads((tmp_path / "encoder" / "config.json").read_text())
    settle(exported, threshold="high", doc_stride=[3])
    assert pipeline(None, exported).threshold is None                           # of no use, and no harm


def test_a_list_of_words_is_tagged(models):
    ask = pipeline("tag", models / "tags")
    assert ask([["sun", "gold-rain", "."]]) == [ask(Words("sun gold-rain ."))]
    assert len(ask(["sun", "gold"])) == 2                                          # two texts
    with pytest.raises(ModelError, match="input 1"):
        ask([["sun", 3]])


def test_many_classes_and_commas_as_a_person_reads_them(capsys):
    many = {f"class {number}": number / 100 for number in range(20)}
    write_table(sys.stdout, [({}, {"labels": ["a", "c, d"], "probabilities": {"b": 0.25, "c, d": 0.75}}),
                             ({}, {"probabilities": many})])
    first, second, _, third, _ = capsys.readouterr().out.split("\n", 4)
    assert first.endswith("  a; c, d") and second.endswith("  b 0.2500; c, d 0.7500")
    assert third.endswith(", class 12 0.1200, ...") and "class 19 0.1900, class 18" in third


@pytest.mark.parametrize("inside", ["config.json", "checkpoints", "notes.txt"])
def test_an_export_into_a_folder_with_content_is_refused(inference, models, tmp_path, inside):
    (tmp_path / inside).touch()
    result = inference([str(models / "classes"), "--export", "hf", "--output", str(tmp_path)])
    assert result.code == 2 and "no empty folder" in result.err
    assert list(tmp_path.iterdir()) == [tmp_path / inside]


def test_inference_in_one_line(inference, models, tmp_path):
    refused(inference([str(models / "pretraining"), "sun", "--cpu"]), "no [MASK]")
    refused(inference([str(models / "classes"), "sun", "--task", "qa", "--cpu"]), "it can do classify")
    refused(inference([str(tmp_path / "none"), "sun", "--cpu"]), "none")
    refused(inference([str(models / "classes"), str(tmp_path / "none.csv"), "--cpu"]), "none.csv", "no such file")
    refused(inference([str(models / "span"), "who", "--cpu"]), "question and context")


def test_eight_bits_answer_nearly_the_same(models):
    pytest.importorskip("torchao")
    texts = [text for text in TEXTS if text]
    answers, expected = (torch.stack([answer["embedding"] for answer in
                                      pipeline("embed", models / "classes", quantize=quantize, normalize=True)(texts)])
                         for quantize in ("int8", None))
    assert not torch.equal(answers, expected)
    torch.testing.assert_close(answers, expected, atol=0.02, rtol=0)


def test_eight_bits_are_for_a_cpu(models):
    with pytest.raises(ModelError, match="on a GPU take precision=bf16"):
        pipeline("classify", models / "classes", device="cuda", quantize="int8")


def test_eight_bits_and_bf16_exclude_each_other(inference, models):
    refused(inference([str(models / "classes"), "a text", "--quantize", "int8", "--precision", "bf16", "--cpu"]),
            "int8", "bf16")


@pytest.mark.parametrize("text, words", [
    ("我住在北京", ["我", "住", "在", "北", "京"]), ("Jose\u0301 Garci\u0301a", ["Jose\u0301", "Garci\u0301a"]),
    ("हिन्दी में", ["हिन्दी", "में"]), ("New\u200bYork", ["New\u200bYork"]),
    ("J. Smith's 3.5 at U.N., 10:30.", ["J.", "Smith", "'s", "3.5", "at", "U.N.", ",", "10:30", "."]),
    ("Rome-Paris and/or (1,000.5) end... -- x", ["Rome-Paris", "and/or", "(", "1,000.5", ")", "end", "...", "--", "x"]),
    ("\u0301 \u200b", []), ("A我b, a \u0301b", ["A", "我", "b", ",", "a", "b"]), ("snake_case J...", ["snake_case", "J.", ".."]),
    ("Rome- x. No.5, e.g. this", ["Rome", "-", "x", ".", "No", ".", "5", ",", "e.g.", "this"]),
    ("Smith’s DON'T 'tis 'rest", ["Smith", "’s", "DON", "'T", "'", "tis", "'", "rest"]),
    (Words("12\u00a0000 x-"), ["12\u00a0000", "x-"])])
def test_words(text, words):
    assert [text[start:end] for start, end in word_spans(text)] == words


def test_a_word_without_end_is_one_word():
    assert [len(word_spans(part * 100_000)) for part in ("a", "a.")] == [1, 1]


@pytest.mark.parametrize("labels, entities", [
    (["B-LOC", "I-LOC", "I-LOC"], [("a b c", "LOC", 0.5)]), (["B-LOC", "I-PER", "O"], [("a", "LOC", 0.9), ("b", "PER", 0.5)]),
    (["PRP-SBJ", "O", "I-X"], [("a", "PRP-SBJ", 0.9), ("c", "X", 0.8)])])
def test_words_of_one_entity_are_joined(labels, entities):
    found = {word: (0, label, probability) for word, (label, probability) in enumerate(zip(labels, (0.9, 0.5, 0.8)))}
    made = joined("a b c", [(0, 1), (2, 3), (4, 5)], found)
    assert [(entity["text"], entity["label"], entity["probability"]) for entity in made] == entities


def test_a_list_of_words_is_not_cut_further(inference, models, tmp_path):
    tag = pipeline(None, models / "tags")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in (["I", "don't", "(x)"], "I don't (x)")))
    words = []
    for _, item in file_rows(str(tmp_path / "a.jsonl"), tag.inputs):
        (window, *_), = tag.rows([item])
        words.append([item[0][start:end] for start, end in window["spans"]])
    assert words == [["I", "don't", "(x)"], ["I", "don", "'t", "(", "x", ")"]]
    assert inference([str(models / "tags"), str(tmp_path / "a.jsonl"), "--cpu"]).code == 0


def test_a_list_of_words_in_a_cell_is_what_tagging_learned_from(tmp_path):
    (tmp_path / "a.csv").write_text('text\n"[""New"", ""York""]"\n[1]\n[2] that\n')
    path = str(tmp_path / "a.csv")
    assert [text for _, (text,) in file_rows(path, ("text",), words=True)] == ["New York", "[1]", "[2] that"]
    assert [text for _, (text,) in file_rows(path, ("text",))] == ['["New", "York"]', "[1]", "[2] that"]


def test_names_of_files(inference, models, tmp_path):
    (tmp_path / "A.CSV").write_text("text\nsun\n")
    (tmp_path / "A.TXT").write_text("sun\ngold\n")
    for name, rows in (("A.CSV", 1), ("A.TXT", 2)):
        answer = inference([str(models / "classes"), str(tmp_path / name), "--cpu"])
        assert answer.code == 0 and answer.out.count("\n") == rows
    answer = inference([str(models / "classes"), "my review.csv", "--cpu"])
    assert answer.code == 0 and "my review.csv: there is no such file, it is read as a text" in answer.err


def test_words_are_those_of_conll(shared):
    sentences, *_ = read_sentences(shared / "conll2003" / "valid.txt")
    other = 0
    for words in sentences:
        ends = list(itertools.accumulate(len(word) + 1 for word in words))
        other += len({(end - 1 - len(word), end - 1) for word, end in zip(words, ends)} - set(word_spans(" ".join(words))))
    assert other < 0.01 * sum(map(len, sentences))


def test_special_tokens_and_pieces_that_go_on_are_shown(models):
    fill = pipeline("fill-mask", models / "pretraining", top_k=2)
    window, = fill.rows([("the [MASK] sat",)])[0]
    fill.tokenizer = bert_tokenizer({piece: i for i, piece in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK] ##q".split())})
    for token, filled in ((5, "theq sat"), (1, "the [UNK] sat")):
        guesses = torch.tensor([[token, 3]]), torch.tensor([[0.7, 0.2]])
        answer = fill.answer(("the [MASK] sat",), [(window, guesses)])
        assert answer["filled"] == filled and answer["masks"][0]["predictions"][1]["token"] == "[SEP]"


def test_a_list_with_a_fault_names_it_before_anything_is_computed(models, monkeypatch):
    classify = pipeline(None, models / "classes")
    monkeypatch.setattr(classify, "_outputs", None)
    for inputs, words in ((["sun"] * 3 + [float("nan")], "input 4: text is a float"), ((t for t in TEXTS), r"\.stream"),
                          (("sun", "rain"), "several inputs are a list")):
        with pytest.raises(ModelError, match=words):
            classify(inputs)


def test_whatever_ends_the_inputs_arrives(models):
    def inputs():
        yield "sun"
        sys.exit("no more")
    answers = pipeline(None, models / "classes").stream(inputs())
    assert next(answers)
    with pytest.raises(SystemExit, match="no more"):
        next(answers)


def test_a_folder_without_a_tokenizer_is_a_fault_of_the_model(models, tmp_path):
    albert.AlbertForSequenceClassification.from_pretrained(models / "classes").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no tokenizer in this folder .*save_tokenizer"):
        pipeline(None, tmp_path)


def test_a_stream_that_is_left_leaves_no_thread(models):
    classify = pipeline(None, models / "classes")
    before = threading.active_count()
    for _ in range(3):
        for _ in classify.stream(itertools.repeat("sun")):
            break
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert threading.active_count() == before


def copied(models, name, folder, **changes):
    shutil.copytree(models / name, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    return folder


def test_several_labels_are_those_that_are_likelier_than_not(models, tmp_path):
    several = pipeline(None, copied(models, "classes", tmp_path / "several", problem_type="multi_label_classification"))
    answers = several(["sun gold joy", "the rain and the rust of it", "grief"])
    assert {len(answer["labels"]) for answer in answers} - {0, 3}
    for answer in answers:
        assert answer["labels"] == [label for label, p in answer["probabilities"].items() if p >= 0.5]


def test_options_and_labels_without_a_meaning(models, tmp_path):
    for changes, words in ((dict(problem_type="regression"), "a regression of 3 values"),
                           (dict(id2label={"0": "x", "1": "x", "2": "y"}), "'x'")):
        with pytest.raises(ModelError, match=words):
            pipeline(None, copied(models, "classes", tmp_path / words[:3].strip("'"), **changes))
    for options, words in ((dict(device="gpu"), "device=gpu"), (dict(device="meta"), "device=meta"),
                           (dict(device=1.5), "device=1.5"), (dict(device="cuda"), "device=cuda")):
        if options["device"] != "cuda" or not torch.cuda.is_available():
            with pytest.raises(ModelError, match=words):
                pipeline(None, models / "classes", **options)
    pipeline("fill-mask", models / "pretraining", top_k=np.int64(3))
    for top_k in ("3", 2.5):
        with pytest.raises(ModelError, match="top_k"):
            pipeline("fill-mask", models / "pretraining", top_k=top_k)
    assert pipeline(None, copied(models, "classes", tmp_path / "tanh", hidden_act="gelu_pytorch_tanh"))("sun")


def test_a_question_longer_than_the_model(inference, models, tmp_path):
    rows = [("who", "sun"), ("who lives in Rome " * 20, "sun")]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(dict(question=q, context=c)) + "\n" for q, c in rows))
    result = inference([str(models / "span"), str(tmp_path / "q.jsonl"), "--cpu"])
    assert len(result.out.splitlines()) == 1
    refused(result, "q.jsonl: row 2", "the question has", "40 positions")


def test_a_blank_is_no_answer(models):
    ask, context = pipeline(None, models / "span"), "sun 東 rain"
    (row,), = ask.rows([("who", context)])
    logits = np.where((row["first"] == 3) & (row["last"] == 4), 9.0, 0.0)
    answer = ask.answer(("who", context), [(row, (logits, logits))])
    assert logits.sum() == 9 and (answer["answer"], answer["score"]) == ("東", 9.0)


def test_an_answer_keeps_its_last_accent(models):
    ask = pipeline(None, models / "span", threshold=1e9)
    context = "Jose\u0301 Jose\u0301"
    (row,), = ask.rows([("who", context)])
    starts = ends = np.where(np.arange(len(row["ids"])) == len(row["ids"]) - 2, 9.0, -9.0)
    assert ask.answer(("who", context), [(row, (starts, ends))])["end"] == len(context)


@pytest.mark.parametrize("inputs, words", [
    (["sun " * 80 + "see notes.txt"], None), (["please open notes.txt"], None), (["x" * 300 + ".txt"], "too long"),
    (["a.txt", "--text", "review"], "lines have none")])
def test_texts_that_look_like_files(inference, models, tmp_path, monkeypatch, inputs, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("sun\n")
    result = inference([str(models / "classes"), *inputs, "--cpu"])
    assert result.code == (2 if words else 0), result.err
    assert "Traceback" not in result.err and (words or "") in result.err


def test_files_that_are_none_or_no_files_for_this(inference, models, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(inference([str(models / "classes"), str(tmp_path / "pipe"), "--cpu"]), "pipe", "give one file")
    result = inference([str(models / "classes"), "reviews/all.json", "--cpu"])
    assert result.code == 0 and "there is no such file, it is read as a text" in result.err
    (tmp_path / "empty.csv").touch()
    refused(inference([str(models / "classes"), str(tmp_path / "empty.csv"), "--cpu"]), "empty.csv", "the file is empty")
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere" / "x.csv")
    (tmp_path / "a.txt").write_text("sun\n")
    refused(inference([str(models / "classes"), str(tmp_path / "a.txt"), "--output", str(tmp_path / "link.csv"), "--cpu"]),
            "nowhere")


def test_closed_standard_input_is_named(models):
    for argument in ("-", "--interactive"):
        done = subprocess.run(f"exec {shlex.quote(sys.executable)} main-inference.py {shlex.quote(str(models / 'classes'))} "
                              f"{argument} --cpu <&-", shell=True, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and "standard input" in done.stderr and "Traceback" not in done.stderr


def test_tables_with_columns_without_a_name_or_parted_otherwise(inference, models, tmp_path):
    (tmp_path / "a.csv").write_text(",text,\n0,sun,9\n")
    out = inference([str(models / "classes"), str(tmp_path / "a.csv"), "--cpu", "--format", "csv"]).out
    row, = csv.DictReader(io.StringIO(out))
    assert (row["column 1"], row["text"], row["column 3"]) == ("0", "sun", "9")
    (tmp_path / "a.csv").write_text(",column 1,text\n0,1,sun\n")
    answer = json.loads(inference([str(models / "classes"), str(tmp_path / "a.csv"), "--cpu"]).out)
    assert (answer["unnamed column 1"], answer["column 1"]) == ("0", "1")
    (tmp_path / "a.csv").write_text("id;text\n1;sun\n")
    refused(inference([str(models / "classes"), str(tmp_path / "a.csv"), "--cpu"]), "parted by commas")
    refused(inference(["x" * 300, "sun", "--cpu"]), "too long")


def test_options_of_choices_in_lines_and_cells(inference, models, tmp_path):
    (tmp_path / "a.txt").write_text("sun\twho\n")
    refused(inference([str(models / "choice"), str(tmp_path / "a.txt"), "--cpu"]), "line 1", "at least two options")
    (tmp_path / "a.csv").write_text("article,question,options\nsun,who,[a] | b\n")
    assert json.loads(inference([str(models / "choice"), str(tmp_path / "a.csv"), "--cpu"]).out)["option"] in ("[a]", "b")
    choose = pipeline(None, models / "choice")
    assert choose(("sun", "who", [])) == {}
    for options in (None, {}, "a | b"):
        with pytest.raises(ModelError, match="not a list of texts"):
            choose(("sun", "who", options))


def test_output_is_utf8_whatever_the_locale(models):
    done = subprocess.run([sys.executable, ROOT / "main-inference.py", models / "classes", "sun 👍", "--cpu"],
                          capture_output=True, env=os.environ | {"PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0 and "👍" in done.stdout.decode(), done.stderr


def test_transformers_knows_the_length_of_an_exported_model(inference, models, tmp_path):
    assert inference([str(models / "classes"), "--export", "hf", "--output", str(tmp_path / "hf")]).code == 0
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "hf").model_max_length == 40


def test_output_that_cannot_be_written_is_named(inference, models, tmp_path, monkeypatch):
    for flags in (["sun", "--output", "x" * 300 + ".csv"], ["--export", "hf", "--output", "x" * 300]):
        refused(inference([str(models / "classes"), *flags, "--cpu"]), "xxx", "too long")
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.chdir(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, most[1]))
        result = inference([str(models / "classes"), "sun", "--output", "a.csv", "--cpu"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    refused(result, "error: a.csv: File too large")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, ROOT / "main-inference.py", models / "classes", "sun", "--cpu"], stdout=full,
                              stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: standard output: No space left"), done.stderr


def test_a_failed_export_leaves_nothing(inference, models, tmp_path, monkeypatch):
    def fails(model, file):
        raise ModelError(f"{file}: answers differ")
    monkeypatch.setattr("albert.export.export_onnx", fails)
    refused(inference([str(models / "classes"), "--export", "onnx", "--output", str(tmp_path / "onnx")]), "answers differ")
    assert not (tmp_path / "onnx").exists()
