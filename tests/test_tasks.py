"""Reading tasks, turning them into features, and scoring answers."""
import json
import random
from types import SimpleNamespace

import datasets
import numpy as np
import pandas
import pyarrow.parquet
import pytest
import torch
import transformers
from test_finetune import BAD, FILLER, GOOD, checkpoint, sentence  # noqa: F401

import albert
from data import draws
from data.conll import read_sentences
from data.errors import DataError
from data.examples import NO_LABEL
from data.features import features
from data.spans import best_spans
from data.task_files import read_task
from data.tasks import Examples, TaskData, split
from data.tokenizer import load_tokenizer
from hps import HPS
from trainer import answers, metrics
from trainer.classification import Classification, MultiLabel, Regression
from trainer.distributed import World
from trainer.finetuning import Finetuning, plan_steps
from trainer.micro_batches import micro_batches
from trainer.questions import SpanAnswering
from trainer.tagging import Tagging

WORLD = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def tokenizer(checkpoint):  # noqa: F811
    return load_tokenizer(checkpoint)


def hyperparameters(**changes):
    return SimpleNamespace(**{**vars(HPS["finetune-classify", "base"]), **changes})


def numbers(count):
    return [str(number) for number in range(count)]


def task_of(task_class, kind, examples, tokenizer, labels=(), metrics=("f1",), seq_len=16, **changes):
    """The task of these examples, to train on and held out."""
    made, _ = features(kind, examples, tokenizer, seq_len, num_labels=len(labels))
    data = TaskData(kind, examples, examples, metrics, list(labels))
    return task_class(data, made, made, hyperparameters(**changes), WORLD)


ROWS = [{"text": f"text {n}, with a comma", "label": ["no", "yes"][n % 2]} for n in range(20)]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_reads_the_same(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    table = datasets.Dataset.from_list(ROWS)
    {"csv": table.to_csv, "tsv": lambda p: table.to_csv(p, sep="\t"), "jsonl": table.to_json,
     "parquet": table.to_parquet}[suffix](path)
    read = read_task("classify", path)
    assert read.labels == ["no", "yes"] and (len(read.train), len(read.dev)) == (18, 2)
    texts = {text: label for part in (read.train, read.dev) for text, label in zip(part.inputs["text"], part.labels)}
    assert texts == {row["text"]: ["no", "yes"].index(row["label"]) for row in ROWS}


def test_classes_are_told_with_their_numbers(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{label} {row},{label}\n" for row in range(5) for label in ("good", "Good", "good ")))
    assert read_task("classify", path, dev=path).classes() == ["2 classes: good 10, Good 5"]
    path.write_text('text,label\nx,"[""a"", ""b""]"\ny,"[""a""]"\n')
    assert read_task("classify", path, dev=path).classes() == ["2 classes: a 2, b 1"]
    (tmp_path / "a.txt").write_text("Rome B-LOC\nis O\n\nso O\n")
    assert read_task("tag", tmp_path / "a.txt", dev=tmp_path / "a.txt").classes() == ["2 tags: O 2, B-LOC 1"]
    path.write_text("text,label\nx,1\ny,2\n")
    assert read_task("regress", path, dev=path).classes() == []


def test_conll_columns_whose_first_numbers_the_words(tmp_path):
    (tmp_path / "a.txt").write_text("1\tRome\tB-LOC\n2\tis\tO\n\n1\tso\tO\n")
    with pytest.raises(DataError, match="a.txt: its first column numbers the words"):
        read_task("tag", tmp_path / "a.txt")


def test_a_squad_file_from_a_table(tmp_path):
    """Its truth values are texts; an answer that is lost would be learnt as none."""
    question = {"id": "q7", "question": "who", "answers": [{"text": "Anna", "answer_start": 0}]}
    for changes, words in (({"is_impossible": "False"}, 'question q7: is_impossible is "False", not true or false'),
                           ({"answers": [{"text": "Anna", "answer_start": "0"}]}, 'question q7: answer_start is "0"'),
                           ({"answers": []}, "no question with a usable answer")):
        content = {"data": [{"paragraphs": [{"context": "Anna", "qas": [question | changes]}]}]}
        (tmp_path / "train.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=words):
            read_task("squad", tmp_path / "train.json")


def test_number_labels_are_in_the_order_of_numbers(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"word,{label}\n" for label in (10, 9, 2, 10, 9, 2)))
    assert read_task("classify", path, dev=path).labels == ["2", "9", "10"]


@pytest.mark.parametrize("columns, words", [
    ({"text": ["a", "b"], "label": [1.0, float("nan")]}, "row 2: no label"),
    ({"text": ["a", "b"], "label": [1, 2], "when": pyarrow.array([1 << 50, 0], pyarrow.timestamp("ms"))}, "not a readable"),
])
def test_odd_parquet_files(tmp_path, columns, words):
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=words):
        read_task("classify", tmp_path / "rows.parquet")


def test_columns_of_one_name_in_parquet(tmp_path):
    table = pyarrow.table([pyarrow.array(["a", "b"]), pyarrow.array([1, 2]), pyarrow.array([3, 4])],
                          ["text", "label", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="2 columns are called 'label'"):
        read_task("classify", tmp_path / "rows.parquet")


@pytest.mark.parametrize("change", [{"question": None}, {"answers": [{"text": 3, "answer_start": 0}]},
                                    {"answers": [{"text": "a", "answer_start": None}]}])
def test_a_squad_file_with_other_things_than_text(tmp_path, change):
    question = {"id": "q", "question": "who", "answers": [{"text": "Anna", "answer_start": 0}], **change}
    (tmp_path / "train.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": "Anna", "qas": [question]}]}]}))
    with pytest.raises(DataError, match="question q: (question|text|answer_start) is"):
        read_task("squad", tmp_path / "train.json")


def test_race_without_a_question(tmp_path):
    for part in ("train", "dev"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "1.json").write_text('{"id": "1", "article": "a", "questions": [], "options": [], "answers": []}')
    with pytest.raises(DataError, match="no question"):
        read_task("race", tmp_path)
    (tmp_path / "train" / "1.json").write_text(
        '{"id": "1", "article": null, "questions": ["q"], "options": [["a", "b"]], "answers": ["A"]}')
    with pytest.raises(DataError, match="train/1.json: not in the layout of RACE"):
        read_task("race", tmp_path)


def test_json_nested_too_deep(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": ' + "[" * 200_000 + "\n")
    with pytest.raises(DataError, match="line 1: not JSON"):
        read_task("classify", tmp_path / "rows.jsonl")


def test_tag_table(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"words": ["in", "Rome"], "tags": ["O", "B-LOC"]}\n{"words": "sun joy", "tags": "O O"}\n')
    read = read_task("tag", path, dev=path, text="words", label="tags")
    assert read.labels == ["B-LOC", "O"] and read.train.labels == [[1, 0], [1, 1]] and read.metrics[0] == "f1"
    speech = tmp_path / "speech.jsonl"
    speech.write_text('{"words": ["in", "Rome"], "tags": ["IN", "NN"]}\n')
    assert read_task("tag", speech, dev=speech, text="words", label="tags").metrics == ("accuracy",)
    path.write_text('{"words": ["in", "Rome"], "tags": ["O"]}\n')
    with pytest.raises(DataError, match="line 1: 2 words, but 1 labels"):
        read_task("tag", path, text="words", label="tags")


def test_the_hub_is_asked_for_repositories_of_plain_files(monkeypatch):
    asked = []

    def load_dataset(*names, split):
        asked.append((*names, split))
        if names[0] == "nyu-mll/glue":
            return datasets.Dataset.from_dict({"premise": ["a b"] * 2, "hypothesis": ["c"] * 2, "label": [1, 0],
                                                "idx": [7, 8]})
        if names[0] == "ehovy/race":
            return datasets.Dataset.from_dict({"example_id": ["e"], "article": ["x y"], "question": ["q"],
                                               "options": [["1", "2", "3", "4"]], "answer": ["C"]})
        return datasets.Dataset.from_dict({"id": ["i"], "context": ["in Rome"], "question": ["where"],
                                           "answers": [{"text": ["Rome"], "answer_start": [3]}]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    mnli, squad, race = read_task("mnli"), read_task("squad2"), read_task("race")
    assert asked == [("nyu-mll/glue", "mnli", "train"), ("nyu-mll/glue", "mnli", "validation_matched"),
                     ("nyu-mll/glue", "mnli", "validation_mismatched"), ("nyu-mll/glue", "mnli", "test_matched"),
                     ("nyu-mll/glue", "mnli", "test_mismatched"), ("rajpurkar/squad_v2", "train"),
                     ("rajpurkar/squad_v2", "validation"), *(("ehovy/race", level, split) for split in
                                                             ("train", "validation") for level in ("middle", "high"))]
    assert mnli.dev.groups == ["matched"] * 2 + ["mismatched"] * 2 and mnli.train.labels == [1, 0]
    assert mnli.train.ids == ["7", "8"] and mnli.dev.ids == ["matched-7", "matched-8", "mismatched-7", "mismatched-8"]
    assert {file: part.labels for file, part in mnli.test.items()} == {"MNLI-m": None, "MNLI-mm": None}
    assert squad.train.labels == [[(3, "Rome")]] and race.dev.labels == [2, 2]


def test_the_hub_s_classes_have_the_names_of_the_benchmark(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, split: datasets.Dataset.from_dict(
        {"label": [0, 1], "idx": [0, 1], **dict.fromkeys(("sentence1", "sentence2", "question", "sentence", "premise",
                                                          "hypothesis"), ["a", "b"])}))
    names = {task: read_task(task).labels for task in ("rte", "qnli", "mnli", "sst2")}
    assert names == {"rte": ["entailment", "not_entailment"], "qnli": ["entailment", "not_entailment"],
                     "mnli": ["entailment", "neutral", "contradiction"], "sst2": ["0", "1"]}


@pytest.mark.parametrize("task, rows, labels, scores", [
    ("qnli", ["index\tquestion\tsentence\tlabel", "0\ta\tb\tentailment", "1\tc\td\tnot_entailment"], [0, 1], ("accuracy",)),
    ("qqp", ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "0\t1\t2\ta\tb\t1", "1\t1\t2\tc\td\t0"], [1, 0],
     ("f1", "accuracy"))])
def test_pairs_of_questions_as_the_benchmark_has_them(tmp_path, task, rows, labels, scores):
    for part in ("train", "dev"):
        (tmp_path / f"{part}.tsv").write_text("\n".join(rows) + "\n")
    read = read_task(task, tmp_path)
    assert read.train.inputs == {"text": ["a", "c"], "pair": ["b", "d"]}
    assert (read.train.labels, read.metrics) == (labels, scores)


@pytest.mark.parametrize("number, kept", [(50, 50), (5000, 100), (30_000, 300)])
def test_small_is_a_hundredth_of_the_training_data_and_at_least_a_hundred(number, kept):
    examples = Examples(numbers(number), {"text": numbers(number)}, [0, 1] * (number // 2))
    small = TaskData("classification", examples, examples, ("accuracy",), ["a", "b"], test={"x": examples}).small()
    assert len(small.train) == len(set(small.train.ids)) == kept and len(small.dev) == number and not small.test


def test_an_unreachable_hub_is_one_line(monkeypatch):
    def load_dataset(*names, split):
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for task in ("sst2", "squad", "race"):
        with pytest.raises(DataError, match=r"no route\).*--data FOLDER"):
            read_task(task)


@pytest.mark.parametrize("task, data, train, dev", [
    ("sst2", "glue", 67349, 872), ("cola", "glue", 8551, 1043), ("rte", "glue", 2490, 277), ("wnli", "glue", 635, 71),
    ("stsb", "glue", 7592, 3000), ("squad2", "squad", 4482, 1596), ("ner", "conll2003", 14041, 3250),
    ("race", "race", 1480, 320)])
def test_real_files(shared, task, data, train, dev):
    read = read_task(task, shared / data)
    assert (len(read.train), len(read.dev)) == (train, dev) and not read.notes


def test_pairs_are_framed_cut_and_padded(tokenizer):
    rng = random.Random(0)
    texts = [[sentence(rng, GOOD, rng.randint(1, 40)) for _ in range(30)] for _ in range(2)]
    examples = Examples(numbers(30), dict(zip(("text", "pair"), texts)), [0] * 30)
    made, _ = features("classification", examples, tokenizer, 24)
    reference = load_copy(tokenizer)
    reference.enable_truncation(24)
    reference.enable_padding(pad_token="<pad>")
    chosen = [5, 0, 29, 7]
    expected = reference.encode_batch([(texts[0][n], texts[1][n]) for n in chosen])
    batch = made.batch(chosen)
    assert batch["input_ids"].tolist() == [row.ids for row in expected]
    assert batch["attention_mask"].tolist() == [[bool(value) for value in row.attention_mask] for row in expected]
    assert (batch["token_type_ids"] * batch["attention_mask"]).tolist() == [row.type_ids for row in expected]
    assert batch["index"].tolist() == chosen


def load_copy(tokenizer):
    return type(tokenizer).from_str(tokenizer.to_str())


def test_texts_that_are_cut_are_counted(tokenizer):
    texts = ["sun", "sun gold joy rose " * 5, "rain rust grief thorn " * 5]
    lengths = sorted(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))
    for seq_len, cut in ((lengths[1], [f"1 of 3 texts are cut to seq_len={lengths[1]} tokens"]), (lengths[2], [])):
        assert features("classification", Examples(numbers(3), {"text": texts}, [0, 1, 0]), tokenizer, seq_len)[1] == cut


def test_first_sub_words_carry_the_tags(tokenizer):
    examples = Examples(["0", "1", "2"], {"words": [["sun", "unheardof", "joy"], ["gold"] * 40, ["joy", "\u0301"]]},
                        [[1, 2, 0], [1] * 40, [1, 1]])
    made, notes = features("tagging", examples, tokenizer, 20)
    batch = made.batch([0])
    words = batch["words"][0]
    assert words[words >= 0].tolist() == [0, 1, 2] and batch["tags"][0][words >= 0].tolist() == [1, 2, 0]
    assert (batch["tags"][0][words < 0] == NO_LABEL).all() and notes == ["1 of 3 sentences are cut to seq_len=20 tokens"]
    ids = batch["input_ids"][0]
    for word, text in zip(np.flatnonzero(words >= 0), ["sun", "unheardof", "joy"]):
        assert tokenizer.id_to_token(ids[word]).strip("▁") == text[:len(tokenizer.id_to_token(ids[word]).strip("▁"))]


def test_words_that_are_cut_off_are_tagged_as_none(tokenizer):
    examples = Examples(["0"], {"words": [["gold"] * 40]}, [[0] * 40])
    task = task_of(Tagging, "tagging", examples, tokenizer, ["B-LOC", "O"], seq_len=20)
    words = task.dev.batch([0])["words"]
    (_, tags, _), = task.predictions([(np.array([0]), words, np.zeros_like(words), np.ones(words.shape))], examples)
    seen = (words >= 0).sum()
    assert tags.split() == ["B-LOC"] * seen + ["O"] * (40 - seen) and seen < 40


def contexts(number=40):
    rng = random.Random(4)
    rows = []
    for _ in range(number):
        words = sentence(rng, GOOD + BAD, rng.randint(3, 90)).split()
        first = rng.randrange(len(words))
        last = min(first + rng.randrange(3), len(words) - 1)
        text = " ".join(words[first:last + 1])
        start = len(" ".join(words[:first])) + (first > 0)
        rows.append((" ".join(words), start, text))
    return Examples(numbers(number), {"question": ["where then"] * number, "context": [row[0] for row in rows]},
                    [[(start, text)] for _, start, text in rows])


def test_windows_show_every_token_and_mark_the_answer(tokenizer):
    examples = contexts()
    made, _ = features("questions", examples, tokenizer, 40, doc_stride=12)
    found = set()
    central = np.zeros(len(examples), int)
    for window in range(len(made)):
        row = slice(made.offsets[window], made.offsets[window + 1])
        number, start, end = (made.targets[name][window] for name in ("example", "start", "end"))
        assert row.stop - row.start <= 40
        central[number] += made.spans["central"][row].sum()
        if start:
            context, (_, text) = examples.inputs["context"][number], examples.labels[number][0]
            assert context[made.spans["first"][row][start]:made.spans["last"][row][end]].strip() == text
            found.add(number)
    assert found == set(range(len(examples)))
    for number, context in enumerate(examples.inputs["context"]):
        assert central[number] == len(tokenizer.encode(context, add_special_tokens=False).ids)


@pytest.mark.parametrize("answer", ["Jose\u0301", "दिल्ली"])
def test_the_marks_of_a_last_letter_belong_to_the_answer(tokenizer, answer):
    """Accents, and the vowel signs of Hindi, which combine with nothing."""
    context = f"sun {answer} rain"
    examples = Examples(["0"], {"question": ["who"], "context": [context]}, [[(4, answer)]])
    made, _ = features("questions", examples, tokenizer, 40)
    start, end = (int(made.targets[name][0]) for name in ("start", "end"))
    assert context[made.spans["first"][start]:made.spans["last"][end]].strip() == answer


def test_an_answer_begins_after_a_quotation_mark(tokenizer):
    context = "sun 'Rome rain"
    examples = Examples(["0"], {"question": ["who"], "context": [context]}, [[(5, "Rome")]])
    made, _ = features("questions", examples, tokenizer, 40)
    start, end = (int(made.targets[name][0]) for name in ("start", "end"))
    assert context[made.spans["first"][start]:made.spans["last"][end]] == "Rome"


def test_a_blank_is_no_answer(tokenizer):
    """The piece before a word that begins with an unknown letter stands for the blank alone."""
    examples = Examples(["0"], {"question": ["who"], "context": ["sun 東 rain"]}, [[(4, "東")]])
    task = task_of(SpanAnswering, "questions", examples, tokenizer, seq_len=40)
    logits = np.zeros((1, task.dev.offsets[1]), np.float32)
    blank, = np.flatnonzero((task.dev.spans["first"] == 3) & (task.dev.spans["last"] == 4))
    logits[0, blank] = 9
    (best, _), = task._answers([(np.array([0]), logits, logits)])
    assert best[0] == ("東", 9.0) and "" not in dict(best)


def test_candidates_are_texts_each_with_its_best_score(tokenizer):
    examples = Examples(["0"], {"question": ["who"], "context": ["東 rain rust joy 東"]}, [[]])
    task = task_of(SpanAnswering, "questions", examples, tokenizer, seq_len=60)
    logits = np.zeros((1, task.dev.offsets[1]), np.float32)
    logits[0, np.flatnonzero((task.dev.spans["first"] == 0) & (task.dev.spans["last"] == 1))[-1]] = 5
    logits[0, task.dev.spans["first"] == 16] = 9
    (best, _), = task._answers([(np.array([0]), logits, logits)])
    assert best[0] == ("東", 18.0) and len(best) == len(dict(best)) == 16


def test_a_context_of_nothing_has_an_answer_of_nothing(tokenizer):
    examples = Examples(["0"], {"question": ["who"], "context": [" "]}, [[]])
    task = task_of(SpanAnswering, "questions", examples, tokenizer, seq_len=40)
    logits = np.zeros((1, task.dev.offsets[1]), np.float32)
    assert task._answers([(np.array([0]), logits, logits)]) == [([("", -1e9)], 0.0)]


def test_a_long_question_is_cut(tokenizer):
    examples = Examples(["0"], {"question": ["sun " * 100], "context": ["rain " * 200]}, [[]])
    made, notes = features("questions", examples, tokenizer, 96)
    assert notes == ["1 questions are cut to 64 tokens"]
    assert (made.batch([0])["token_type_ids"] == 0).sum() == 1 + 64 + 1


def test_the_score_of_no_answer_is_the_least_of_all_windows(tokenizer):
    examples = Examples(["0"], {"question": ["who"], "context": ["sun rain " * 60]}, [[]])
    task = task_of(SpanAnswering, "questions", examples, tokenizer, seq_len=40)
    starts = np.zeros((len(task.dev), 40), np.float32)
    starts[:, 0] = np.arange(len(starts)) + 3
    starts[1, 0] = 2
    (_, none), = task._answers([(np.arange(len(starts)), starts, np.zeros_like(starts))])
    assert len(starts) > 3 and none == 2


def test_perfect_logits_give_perfect_scores(tokenizer):
    examples = contexts()
    examples.labels[3] = []
    made, _ = features("questions", examples, tokenizer, 40, doc_stride=12)
    data = TaskData("questions", examples, examples, ("f1", "exact_match"))
    task = SpanAnswering(data, made, made, hyperparameters(micro_batch_size=7), WORLD)

    def model(ids, types, mask):
        batch = next(b for b in task.evaluation() if torch.equal(b["input_ids"], ids))
        logits = [torch.nn.functional.one_hot(batch[name], ids.shape[1]) * 9.0 for name in ("start", "end")]
        return SimpleNamespace(start_logits=logits[0], end_logits=logits[1])

    outputs = [task.predict(model, batch)[1] for batch in task.evaluation()]
    scores = task.metrics(outputs)
    assert (scores["f1"], scores["exact_match"]) == (1.0, 1.0)
    rows = task.predictions(outputs, examples)
    assert rows[3][1] == "" and all(row[1] == label[0][1] for row, label in zip(rows, examples.labels) if label)


@pytest.mark.parametrize("answer, gold, exact, overlap", [
    ("The Eiffel Tower!", "eiffel tower", 1, 1), ("in 1912", "1912", 0, 2 / 3), ("", "", 1, 1), ("a", "", 1, 1),
    ("Rome", "", 0, 0), ("", "Rome", 0, 0), ("anna", "Anna Ann", 0, 2 / 3), ("b b c", "b c c", 0, 2 / 3),
    ("theatre", "atre", 0, 0), ("U.S.", "US", 1, 1)])
def test_squad_s_scores(answer, gold, exact, overlap):
    assert answers.exact_match(answer, gold) == exact and answers.f1(answer, gold) == pytest.approx(overlap)


def test_squad_s_scores_are_those_of_torchmetrics():
    from torchmetrics.functional.text import squad
    rng = np.random.default_rng(2)
    words = ["The", "a", "an", "Rome", "rome,", "in", "1912.", "U.S.", "tower", "--", "théâtre", "Anna"]
    texts = [" ".join(rng.choice(words, rng.integers(1, 6))) for _ in range(600)]
    texts = [text for text in texts if answers.normalize(text)]
    said, golds = texts[:100], [texts[100 + 3 * row:103 + 3 * row] for row in range(100)]
    expected = squad([{"id": str(row), "prediction_text": text} for row, text in enumerate(said)],
                     [{"id": str(row), "answers": {"text": gold, "answer_start": [0] * len(gold)}}
                      for row, gold in enumerate(golds)])
    scores = answers.evaluate(said, [0.0] * 100, golds)
    assert 0.1 < scores["f1"] < 0.9 and 100 * scores["f1"] == pytest.approx(float(expected["f1"]), abs=1e-4)
    assert 100 * scores["exact_match"] == pytest.approx(float(expected["exact_match"]), abs=1e-4)


def test_the_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(30):
        said = [str(word) for word in rng.choice(["rome", "paris", "bonn city"], 12)]
        golds = [[] if rng.random() < 0.5 else ["rome", "bonn"] for _ in said]
        odds = rng.integers(-3, 4, 12).astype(float)
        scores = answers.evaluate(said, odds, golds)
        if not any(map(len, golds)) or all(map(len, golds)):
            continue
        tries = [np.mean([best_of(answers.f1, text if odd <= level else "", gold)
                          for text, odd, gold in zip(said, odds, golds)]) for level in (-9, *range(-3, 4))]
        assert scores["f1"] == pytest.approx(max(tries))
        given = [text if odd <= scores["threshold"] else "" for text, odd in zip(said, odds)]
        assert scores["exact_match"] == pytest.approx(
            np.mean([best_of(answers.exact_match, text, gold) for text, gold in zip(given, golds)]))


def test_an_answer_without_a_word_is_an_answer():
    said, odds = ["the cat", "b"], [-5.0, 3.0]
    assert answers.evaluate(said, odds, [["A"], ["b"]]) == {"f1": 0.5, "exact_match": 0.5}         # version 1.1
    scores = answers.evaluate(["a", "b", "c"], [-5.0, 3.0, 9.0], [["A"], ["b"], []])
    assert (scores["f1"], scores["exact_match"]) == (1.0, 1.0) and 3 <= scores["threshold"] < 9    # 2.0
    assert answers.evaluate(["a", "b"], [-5.0, 9.0], [["The", "Rome"], []])["exact_match"] == 0.5


def test_where_all_questions_are_answered_the_threshold_is_above_their_odds():
    scores = answers.evaluate(["rome", "bonn", "paris"], [1.0, 2.0, 0.0], [["Rome"], ["Bonn"], []])
    assert scores["f1"] == pytest.approx(2 / 3) and scores["threshold"] > 2.5


def best_of(score, answer, golds):
    return max(score(answer, gold) for gold in golds or [""])


def test_best_spans_are_those_of_a_search_of_all():
    rng = np.random.default_rng(1)
    start, end = rng.normal(size=(2, 60))
    usable, central = np.arange(60) >= 10, rng.random(60) < 0.6
    spans, none = best_spans(start, end, usable, central)
    every = max((start[a] + end[b], a, b) for a in range(10, 60) if central[a] for b in range(a, min(a + 30, 60)))
    assert len(spans) == 20 and spans[0] == pytest.approx(every) and none == start[0] + end[0]
    assert [score for score, *_ in spans] == sorted((score for score, *_ in spans), reverse=True)


def test_an_answer_has_thirty_tokens_at_most():
    start, end = np.zeros(80), np.zeros(80)
    start[10], end[[39, 40]] = 9, [5, 6]                          # tokens 10 to 39 are 30
    spans, _ = best_spans(start, end, np.arange(80) > 0, np.ones(80, bool))
    assert spans[0] == (14.0, 10, 39)


def test_entities_are_scored_whole():
    scores = metrics.tagging(("f1", "precision", "recall", "accuracy"), [["B-LOC", "I-LOC", "O", "B-PER"]],
                             [["B-LOC", "O", "O", "B-PER"]])
    assert scores == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.75}


def test_where_nothing_is_found_the_scores_are_zero():
    assert set(metrics.tagging(("f1", "precision", "recall"), [["B-LOC"]], [["O"]]).values()) == {0.0}
    assert metrics.classification(("f1", "matthews"), [0, 0], [0, 0], "binary") == {"f1": 0.0, "matthews": 0.0}


def test_groups_are_scored_by_their_own_rows():
    scores = metrics.by_group(lambda gold, guess: {"accuracy": float((gold == guess).mean())}, ["m", "m", "n", "m"],
                              np.array([0, 1, 0, 1]), np.array([0, 1, 1, 1]))
    assert scores == {"accuracy": 0.75, "m_accuracy": 1.0, "n_accuracy": 0.0}


@pytest.mark.parametrize("names, f1", [(["0", "1"], 2 / 3), (["no", "yes"], 1 / 3)])
def test_f1_of_zero_and_one_is_that_of_one_and_of_other_classes_their_mean(tokenizer, names, f1):
    examples = Examples(numbers(4), {"text": ["sun", "rain", "joy", "rust"]}, [0, 1, 1, 1])
    task = task_of(Classification, "classification", examples, tokenizer, names)
    assert task.metrics([(np.arange(4), np.eye(2)[[1, 1, 1, 0]])])["f1"] == pytest.approx(f1)


def test_several_labels_are_scored_together_and_named(tokenizer):
    examples = Examples(numbers(3), {"text": ["sun", "rain", "joy"]}, [[0], [0, 1], [0]])
    task = task_of(MultiLabel, "multilabel", examples, tokenizer, ["a", "b"], ("f1", "accuracy"))
    outputs = [(np.arange(3), np.array([[0.9, 0.1], [0.8, 0.3], [0.4, 0.2]]))]
    assert task.metrics(outputs) == {"f1": pytest.approx(2 * 2 / (2 + 4)), "accuracy": pytest.approx(1 / 3)}
    assert task.predictions(outputs, examples) == [("0", '["a"]', 0.9), ("1", '["a"]', pytest.approx(0.7)), ("2", "[]", 0.6)]


def test_the_first_metric_chooses_the_best_step():
    task = Finetuning(TaskData("classification", None, None, ("matthews", "accuracy")), None, None, hyperparameters(), WORLD)
    assert task.goodness({"loss": 1.0, "accuracy": 0.2, "matthews": 0.7}) == 0.7


@pytest.mark.parametrize("kind, task_class, inputs, labels", [
    ("classification", Classification, {"text": ["sun", "rain", "joy", "rust"]}, [0, 0, 1, 0]),
    ("tagging", Tagging, {"words": [["sun"], ["rain"], ["joy"], ["rust"]]}, [[0], [0], [1], [0]])])
def test_balanced_losses_are_the_weighted_means_of_pytorch(tokenizer, kind, task_class, inputs, labels):
    task = task_of(task_class, kind, Examples(numbers(4), inputs, labels), tokenizer, ["a", "b"], class_weights="balanced")
    (_, batch), = task.micro_batches(task.dev, np.array([0, 2]))
    gold = batch[task.target]
    logits = torch.randn(*gold.shape, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, -2), gold.flatten(), torch.tensor([2 / 3, 2]))
    assert float(task._losses(logits, batch)["label_loss"] / task.counts(batch)["label"]) == pytest.approx(float(expected))


def test_balanced_weights_of_several_labels_are_of_those_with_and_those_without_each(tokenizer):
    examples = Examples(numbers(4), {"text": ["sun", "rain", "joy", "rust"]}, [[0], [0], [0, 1], []])
    task = task_of(MultiLabel, "multilabel", examples, tokenizer, ["a", "b"], class_weights="balanced")
    (_, batch), = task.micro_batches(task.dev, np.array([0]))
    assert task.counts(batch)["label"] == pytest.approx(4 / (2 * 3) + 4 / (2 * 3))      # three with a, three without b


def test_a_constant_has_no_correlation(recwarn):
    assert metrics.regression(("pearson", "spearman"), [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]) == {
        "pearson": 0.0, "spearman": 0.0}
    assert metrics.regression(("pearson",), [1.0], [5.0]) == {"pearson": 0.0}
    metrics.regression(("pearson",), [1.0, 2.0, 3.0], [1.0, 1.0, 1.0 + 2 ** -52])
    assert not recwarn.list


def test_order_is_a_permutation_in_batches_of_one_length(tokenizer):
    rng = random.Random(5)
    texts = [sentence(rng, GOOD, rng.randint(1, 40)) for _ in range(103)]
    made, _ = features("classification", Examples(numbers(103), {"text": texts}, [0, 1] * 51 + [0]), tokenizer, 64)
    data = TaskData("classification", None, None, ("accuracy",), ["no", "yes"])
    task = Finetuning(data, made, made, hyperparameters(batch_size=8, bucket_batches=50), WORLD)
    plain = Finetuning(data, made, made, hyperparameters(batch_size=8, bucket_batches=1), WORLD)

    def waste(order):
        return sum(made.lengths[order[n:n + 8]].max() * len(order[n:n + 8]) for n in range(0, 103, 8))

    for epoch in range(2):
        assert sorted(task.order(epoch)) == list(range(103))
        assert waste(task.order(epoch)) < 0.85 * waste(plain.order(epoch))
    longest = [made.lengths[task.order(0)[n:n + 8]].max() for n in range(0, 96, 8)]
    assert longest != sorted(longest)                                  # the batches themselves are in any order
    assert list(task.order(0)) != list(task.order(1))
    updates = task.updates({"epoch": 0, "sample": 96})
    assert [next(updates)[0] for _ in range(2)] == [{"epoch": 0, "sample": 103}, {"epoch": 1, "sample": 8}]


def test_micro_batches_are_cut_from_the_longest_example_on():
    lengths = np.array([3, 9, 5, 7, 4])
    shares = [micro_batches([(np.arange(5), lengths, list)], 2, World(rank, 2, None)) for rank in range(2)]
    assert shares == [[(0, [1, 3]), (2, [0])], [(1, [2, 4])]]


def test_features_are_kept(tokenizer, tmp_path):
    examples = contexts(10)
    fresh, _ = features("questions", examples, tokenizer, 40, doc_stride=12, cache_dir=tmp_path)
    file, = tmp_path.iterdir()
    kept, _ = features("questions", examples, tokenizer, 40, doc_stride=12, cache_dir=tmp_path)
    for group in ("tokens", "targets", "spans"):
        ours, theirs = getattr(fresh, group), getattr(kept, group)
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    features("questions", examples, tokenizer, 40, doc_stride=13, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        features("questions", examples, tokenizer, 40, doc_stride=12, cache_dir=tmp_path)


def test_features_of_other_lengths_and_labels_are_made_anew(tokenizer, tmp_path):
    def made(labels, seq_len):
        examples = Examples(numbers(2), {"text": ["sun gold joy rose " * 5, "rain"]}, labels)
        return features("classification", examples, tokenizer, seq_len, cache_dir=tmp_path)[0]
    assert made([0, 1], 24).lengths.max() == 24 and made([0, 1], 12).lengths.max() == 12
    assert made([1, 0], 12).targets["labels"].tolist() == [1, 0]


PEERS = {
    "classification": ("SequenceClassification", Classification, dict(id2label={0: "x", 1: "y", 2: "z"})),
    "regression": ("SequenceClassification", Regression, dict(num_labels=1, problem_type="regression")),
    "multilabel": ("SequenceClassification", MultiLabel,
                   dict(id2label={0: "x", 1: "y", 2: "z"}, problem_type="multi_label_classification")),
    "tagging": ("TokenClassification", Tagging, dict(id2label={0: "x", 1: "y", 2: "z"})),
    "questions": ("QuestionAnswering", SpanAnswering, {}),
    "choice": ("MultipleChoice", Classification, {}),
}


@pytest.mark.parametrize("kind", PEERS)
def test_the_loss_is_that_of_transformers(kind, tokenizer, tmp_path):
    name, task_class, labels = PEERS[kind]
    torch.manual_seed(0)
    config = albert.AlbertConfig(vocab_size=tokenizer.get_vocab_size(), embedding_size=16, hidden_size=32,
                                 num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, **labels)
    ours = getattr(albert, f"AlbertFor{name}")(config).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours.save_pretrained(tmp_path)
    peer = getattr(transformers, f"AlbertFor{name}").from_pretrained(tmp_path, **(
        {"problem_type": labels["problem_type"]} if "problem_type" in labels else {})).eval()
    rng = random.Random(6)
    texts = [sentence(rng, FILLER, rng.randint(2, 9)) for _ in range(6)]
    examples = {
        "classification": Examples(numbers(6), {"text": texts, "pair": texts[::-1]}, [0, 1, 2, 0, 1, 2]),
        "regression": Examples(numbers(6), {"text": texts}, [0.5, 1, 2, -1, 3, 0]),
        "multilabel": Examples(numbers(6), {"text": texts}, [[0], [], [1, 2], [0, 1, 2], [2], [0]]),
        "tagging": Examples(numbers(6), {"words": [text.split() for text in texts]},
                            [[rng.randrange(3) for _ in text.split()] for text in texts]),
        "questions": contexts(6),
        "choice": Examples(numbers(2), {"article": texts[:2], "question": texts[2:4],
                                        "options": [texts[:4], texts[2:]]}, [3, 1]),
    }[kind]
    made, _ = features(kind, examples, tokenizer, 40, num_labels=3)
    data = TaskData(kind, examples, examples, ("accuracy",), list(labels.get("id2label", {}).values()))
    task = task_class(data, made, made, hyperparameters(micro_batch_size=64), WORLD)
    batch, = task.evaluation()
    targets = {"tagging": {"labels": "tags"}, "questions": {"start_positions": "start", "end_positions": "end"}}
    # of Transformers' loss of spans padding is a candidate: there each row alone, which has none
    parts = [task.micro_batches(task.dev, np.array([row]))[0][1] for row in range(len(made))] if kind == "questions" else [batch]
    with torch.no_grad():
        expected = np.mean([float(peer(
            input_ids=part["input_ids"], token_type_ids=part["token_type_ids"], attention_mask=part["attention_mask"].long(),
            **{theirs: part[mine] for theirs, mine in targets.get(kind, {"labels": "labels"}).items()}).loss) for part in parts])
        loss = task.sums(ours, batch)["label_loss"] / task.counts(batch)["label"]
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def own(tmp_path, name, content, task="classify", **columns):
    (tmp_path / name).write_text(content, encoding="utf-8")
    return read_task(task, str(tmp_path / name), **columns)


def test_lists_of_words_and_tags_in_a_table(tmp_path):
    rows = [(["Anna", "lives"], ["B-PER", "O"]), (["in", "Rome"], ["O", "B-LOC"])]
    expected = None
    for name, cell, separator in (("a.csv", lambda v: '"' + json.dumps(v).replace('"', '""') + '"', ","),
                                  ("a.tsv", json.dumps, "\t"), ("b.tsv", " ".join, "\t")):
        table = f"text{separator}label\n" + "".join(f"{cell(w)}{separator}{cell(t)}\n" for w, t in rows)
        read = own(tmp_path, name, table, "tag", dev=str(tmp_path / name))
        found = read.labels, read.train.inputs, read.train.labels
        assert read.labels == ["B-LOC", "B-PER", "O"] and found == (expected := expected or found)
    table = "text,label\n\"['Anna', 'lives']\",\"['B-PER', 'O']\"\n"
    with pytest.raises(DataError, match=r"a\.csv: line 2: expected a JSON list"):
        own(tmp_path, "a.csv", table, "tag")


@pytest.mark.parametrize("first, second", [('" [""a""]"', '"[""b"", ""a""] "'), ('"[""a"",""b""]"', '"[]"')])
def test_lists_of_labels_with_blanks_around_them(first, second, tmp_path):
    read = own(tmp_path, "a.csv", "text,label\n" + f"x,{first}\ny,{second}\n" * 10)
    assert read.kind == "multilabel" and read.labels == ["a", "b"]


def test_classes_whose_names_begin_with_a_bracket(tmp_path):
    read = own(tmp_path, "a.csv", "text,label\n" + "x,[A]\ny,[URGENT] now\nz,b\n" * 10)
    assert read.kind == "classification" and read.labels == ["[A]", "[URGENT] now", "b"]


def test_conll_in_a_file_like_a_table_and_with_comments(tmp_path):
    with pytest.raises(DataError, match=r"a\.tsv: no column 'text', .* CoNLL columns another suffix"):
        own(tmp_path, "a.tsv", "John\tB-PER\nlives\tO\n", "tag")
    with pytest.raises(DataError, match="line 2: 2 columns, expected 4; lines that begin with # are no comments"):
        own(tmp_path, "a.txt", "# sent_id = 0\nJohn B-PER\nlives O\n", "tag")


@pytest.mark.parametrize("name, content, words", [
    ("a.csv", 'text,label\nx,a\ny,"[""a"", ""b""]"\n', "line 3: a list of labels in some rows"),
    ("a.csv", "text,label\nx,a\ny,[b\n", "line 3: expected a JSON list"),
    ("a.jsonl", '{"text": "x", "label": {"x": 1}}\n', "line 1: column 'label' holds {'x': 1}, which is no label"),
    ("a.jsonl", '{"text": "x", "label": [["x"], ["y"]]}\n', "line 1: column 'label' holds .*, which is no label"),
    ("a.jsonl", '{"text": "x", "label": []}\n{"text": "y", "label": []}\n', "a.jsonl: no label in any row"),
    ("a.jsonl", '{"text": 5, "label": "x"}\n', "line 1: column 'text' holds int, not text"),
    ("a.csv", 'text,label\nx,"[[""a""]]"\n', "line 2: expected a JSON list"),
    ("a.csv", f"text,label\nx,{'[' * 100_000}\n", "line 2: expected a JSON list"),
    ("a.csv", "text,label\nx,a\ny,b\n", "must be two")])
def test_labels_that_are_none(name, content, words, tmp_path):
    with pytest.raises(DataError, match=words):
        own(tmp_path, name, content)


def test_the_same_labels_from_every_format(tmp_path):
    (tmp_path / "dev.csv").write_text("id,text , label\nk,x,1 \nl,y,0\n")
    for one, none in ((1.0, 0.0), (1, 0)):
        (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "x", "label": v}) + "\n" for v in (one, none)))
        read = read_task("classify", str(tmp_path / "a.jsonl"), str(tmp_path / "dev.csv"))
        assert read.labels == ["0", "1"] and read.dev.labels == [1, 0]
        assert read.dev.ids == ["k", "l"] and read.train.ids == ["0", "1"]
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": true}\n{"text": "y", "label": false}\n')
    for word in ("true", "True", "TRUE"):                                        # JSON's, pandas', Excel's
        (tmp_path / "dev.csv").write_text(f"text,label\nx,{word}\n")
        assert read_task("classify", str(tmp_path / "a.jsonl"), str(tmp_path / "dev.csv")).dev.labels == [1]
    for labels, names in (("1.0 0.0", ["0", "1"]), ("1.0 1.5", ["1.0", "1.5"]), ("True maybe", ["True", "maybe"])):
        (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"x,{label}\n" for label in labels.split()))
        (tmp_path / "dev.csv").write_text(f"text,label\nx,{labels.split()[0]}\n")
        read = read_task("classify", str(tmp_path / "a.csv"), str(tmp_path / "dev.csv"))
        assert read.labels == names and read.dev.labels == [read.train.labels[0]]


def test_what_is_held_out_is_in_no_training_example(tmp_path):
    def ids(texts, kind="text"):
        count = len(texts)
        train, held = split(Examples(numbers(count), {kind: texts, "question": numbers(count)} if kind == "context" else
                                     {kind: texts}, list(range(count))))
        assert not set(train.inputs[kind]) & set(held.inputs[kind])
        return sorted(train.labels + held.labels), held.labels

    alone = ids(numbers(200))
    order = np.argsort(draws.bits(draws.key("heldout"), np.arange(200)))
    assert alone[1] == sorted(order[:20].tolist())                     # as without any repetition
    for texts, kind, number in ((numbers(60) * 4, "text", 24), (numbers(25) * 8, "context", 16)):
        everything, held = ids(texts, kind)
        assert everything == list(range(len(texts))) and len(held) == number
    assert len(ids(["a"] * 30 + ["b"] * 5)[1]) == 5                      # neither is small enough: the smaller
    with pytest.raises(DataError, match="35 examples, 1 different text: too few"):
        ids(["a"] * 35)


def test_held_out_texts_that_are_trained_on_are_counted(tmp_path):
    (tmp_path / "dev.csv").write_text("text,label\nx,a\nz,b\n")
    read = own(tmp_path, "a.csv", "text,label\nx,a\ny,b\n", dev=str(tmp_path / "dev.csv"))
    assert read.notes == ["1 of the 2 held-out texts are in the training data too"]


def test_tables_parted_by_tabs_as_pandas_writes_them(tmp_path):
    rows = [('he said "hi", ok', '["a", "b"]'), ('"all of it"', '["b"]'), ("plain", "[]")] * 5
    pandas.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "pandas.tsv", sep="\t", index=False)
    read = read_task("classify", str(tmp_path / "pandas.tsv"), str(tmp_path / "pandas.tsv"))
    assert read.kind == "multilabel" and read.labels == ["a", "b"]
    assert read.train.inputs["text"][:3] == [text for text, _ in rows[:3]]
    plain = own(tmp_path, "plain.tsv", 'text\tlabel\n"x"\ta\n5" disk\tb\n', dev=str(tmp_path / "plain.tsv"))
    assert plain.train.inputs["text"] == ['"x"', '5" disk']


def test_whole_numbers_written_in_two_ways_are_one_class(tmp_path):
    read = own(tmp_path, "a.csv", "text,label\n" + "".join(f"t{n},{label}\n" for n, label in enumerate(["1", "1.0", "2"] * 9)))
    assert read.labels == ["1", "2"]


@pytest.mark.parametrize("keys, updates", [((), 12), (("max_steps",), 500), (("max_steps", "max_epochs"), 12), (("max_epochs",), 12)])
def test_a_number_of_updates_that_was_set_counts(keys, updates):
    hps = hyperparameters(max_steps=500, max_epochs=3, batch_size=16)
    plan_steps(hps, 60, keys)
    assert hps.max_steps == updates


def test_text_that_the_vocabulary_cannot_spell_is_said(tokenizer):
    for text, said in (("книга", True), ("the", False)):
        _, notes = features("classification", Examples(["0"], {"text": [text]}, [0]), tokenizer, 32)
        assert any("unknown to the checkpoint's vocabulary" in note for note in notes) == said


def test_ids_that_pandas_made_numbers(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": i, "text": "x", "label": i}) + "\n" for i in (8.0, 9.5)))
    assert read_task("classify", str(tmp_path / "a.jsonl"), str(tmp_path / "a.jsonl")).dev.ids == ["8", "9.5"]


@pytest.mark.parametrize("settings, words", [
    (dict(task="sst2", text="foo"), "--text foo"), (dict(task="race", label="x"), "--label x"),
    (dict(task="tag", data="a.csv", text_pair="b"), "--text-pair"),
    (dict(task="tag", data="a.jsonl", dev="b.conll"), "both be tables")])
def test_flags_without_a_meaning(settings, words):
    with pytest.raises(DataError, match=words):
        read_task(**settings)


def test_one_class_in_a_benchmark_s_file_and_a_class_that_is_held_out_only(tmp_path):
    (tmp_path / "train.tsv").write_text("sentence\tlabel\na b\t1\nc d\t1\n")
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\na b\t1\n")
    with pytest.raises(DataError, match="of the class '1'"):
        read_task("sst2", str(tmp_path))
    (tmp_path / "train.tsv").write_text("sentence1\tsentence2\tgold_label\na\tb\tneutral\nc\td\tentailment\n")
    for part in ("matched", "mismatched"):
        (tmp_path / f"dev_{part}.tsv").write_text("index\tsentence1\tsentence2\tgold_label\n9\ta\tb\tcontradiction\n")
    read = read_task("mnli", str(tmp_path))
    assert read.dev.ids == ["matched-9", "mismatched-9"] and "contradiction" in read.notes[-2]
    assert "all are of the class contradiction" in read.notes[-1]


def test_classes_that_differ_in_capitals_only(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"t{n},{('bad', 'Good', 'good')[n % 3]}\n" for n in range(30)))
    assert read_task("classify", str(tmp_path / "a.csv")).notes == [
        "classes that differ in capitals only: Good, good; where they are one, write them alike"]


def test_labels_of_a_regression_that_are_large_or_all_alike(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"t{n},{12000 + n}\n" for n in range(9)))
    assert "labels go up to 12,008" in read_task("regress", str(tmp_path / "a.csv"), str(tmp_path / "a.csv")).notes[0]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"t{n},3\n" for n in range(9)))
    with pytest.raises(DataError, match="all training examples have the label 3"):
        read_task("regress", str(tmp_path / "a.csv"))


def test_a_score_must_be_finite_and_ids_are_the_file_s(tmp_path):
    header = "index\tsentence1\tsentence2\tscore\n"
    (tmp_path / "dev.tsv").write_text(header + "4\ta\tb\t1.5\n")
    (tmp_path / "train.tsv").write_text(header + "7\ta\tb\t1\n8\ta\t\t2\n9\tc\td\t3\n")
    assert read_task("stsb", str(tmp_path)).train.ids == ["7", "9"]
    (tmp_path / "train.tsv").write_text(header + "0\ta\tb\tnan\n")
    with pytest.raises(DataError, match="train.tsv: line 2: score 'nan'"):
        read_task("stsb", str(tmp_path))


@pytest.mark.parametrize("changes, words", [
    (dict(answers=[""]), "question 0: answer ''"), (dict(answers=["AB"]), "question 0: answer 'AB'"),
    (dict(options=["onetwo"]), "question 0: its options are no list"), (dict(options=[["one"]]), "1 options"),
    (dict(article="", questions=[" "]), "neither an article nor a question"),
    (dict(questions=["half \ud83d"]), "half of a character")])
def test_faulty_questions_of_race(changes, words, tmp_path):
    row = dict(id="a", article="x", questions=["q"], options=[["one", "two"]], answers=["A"]) | changes
    for part in ("train", "dev"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a.txt").write_text("\ufeff" + json.dumps(row), encoding="utf-8")
    with pytest.raises(DataError, match=f"a.txt: .*{words}"):
        read_task("race", str(tmp_path))


def squad_file(path, *questions):
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "Anna lives in Rome.", "qas": [
        dict(id=str(number), question="q?", answers=[dict(text=text, answer_start=start)])
        for number, (text, start) in enumerate(questions)]}]}]}))
    return str(path)


def test_answers_that_are_empty_or_begin_before_the_text(tmp_path):
    file = squad_file(tmp_path / "a.json", ("Rome", 14), ("", -1), ("e.", -3))
    read = read_task("squad2", file, file)
    assert read.train.labels == [[(14, "Rome")], []] and read.dev.labels == [[(14, "Rome")], [], [(-1, "e.")]]
    assert any("1 questions have an empty answer only" in note for note in read.notes)
    (tmp_path / "b.json").write_text((tmp_path / "a.json").read_text().replace('"id": "1"', '"id": "0"'))
    with pytest.raises(DataError, match="b.json: 2 questions have the id 0"):
        read_task("squad2", str(tmp_path / "b.json"))


def test_columns_of_conll_with_tabs_and_other_blanks_in_a_word(tmp_path):
    (tmp_path / "a.txt").write_text("12\u00a0000\tO\nRome\tB-LOC\n\n", encoding="utf-8")
    assert read_sentences(tmp_path / "a.txt")[:2] == ([["12\u00a0000", "Rome"]], [["O", "B-LOC"]])


def test_lines_between_documents_are_no_words(tmp_path):
    (tmp_path / "a.txt").write_text("-DOCSTART- -X- -X- O\n\nRome NNP I-NP B-LOC\n\n-DOCSTART- -X- -X- O\n\nsun NN I-NP O\n")
    assert read_sentences(tmp_path / "a.txt") == ([["Rome"], ["sun"]], [["B-LOC"], ["O"]], [3, 7])


def test_bilou_is_scored_as_bioes():
    gold, said = [["U-PER", "U-PER", "B-LOC", "L-LOC", "U-LOC"]], [["U-PER", "O", "B-LOC", "L-LOC", "O"]]
    assert metrics.tagging(["f1"], gold, said)["f1"] == pytest.approx(2 / 3)
