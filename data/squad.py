"""Extractive question answering in the layout of SQuAD (Rajpurkar et al. 2016, 2018)."""
import json
from collections import Counter
from pathlib import Path

from data.errors import DataError
from data.files import json_row
from data.hub import load_split
from data.tables import existing
from data.tasks import Examples, TaskData, split

METRICS = ("f1", "exact_match")
VERSIONS = {"squad": ("v1.1", "rajpurkar/squad"), "squad2": ("v2.0", "rajpurkar/squad_v2")}


def read_squad(name, data=None, dev=None):
    """The TaskData of ``squad`` (1.1) or ``squad2``.

    ``data`` is a folder with train-v1.1.json and dev-v1.1.json (or v2.0), or a training file beside which ``dev``
    may name the held-out one; without it the hub is asked. Answers that are not where their context has them are
    left out of training and counted in the notes; in held-out questions they count in the scores all the same.
    """
    version, repository = VERSIONS[name]
    notes = []
    if data is None:
        train, held = (_from_hub(repository, part, notes, part == "validation") for part in ("train", "validation"))
    elif Path(data).is_dir():
        train, held = (_from_file(Path(data) / f"{part}-{version}.json", notes, part == "dev") for part in ("train", "dev"))
    else:
        train, held = _from_file(data, notes), _from_file(dev, notes, True) if dev else None
    if held is None:
        train, held = split(train)
    return TaskData("questions", train, held, METRICS, notes=notes)


def _from_file(path, notes, held=False):
    path = existing(path)
    try:
        articles = json_row(path.read_text(encoding="utf-8-sig"), str(path), '{"data": [...]}')["data"]
        rows = [_question(path, paragraph["context"], question)
                for article in articles for paragraph in article["paragraphs"] for question in paragraph["qas"]]
        return _examples(str(path), rows, notes, held)
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: not in the layout of SQuAD ({type(error).__name__}: {error})") from None


def _question(path, context, question):
    """(id, context, question, [(first character, text)]), the latter empty where it is said to have no answer."""
    def value(mapping, key, kind, words):
        if type(found := mapping.get(key)) is not kind:
            raise DataError(f"{path}: question {question['id']}: {key} is {json.dumps(found)}, not {words}")
        return found

    impossible = value({"is_impossible": False} | question, "is_impossible", bool, "true or false")
    answers = [(value(answer, "answer_start", int, "the number of a character"), value(answer, "text", str, "a text"))
               for answer in ([] if impossible else question["answers"])]
    return question["id"], context, value(question, "question", str, "a text"), answers


def _from_hub(repository, part, notes, held):
    loaded = load_split(repository, None, part, f"{repository}:")
    rows = [(row["id"], row["context"], row["question"],
             list(zip(row["answers"]["answer_start"], row["answers"]["text"]))) for row in loaded]
    return _examples(f"{repository} {part}", rows, notes, held)


def _examples(place, rows, notes, held):
    """Examples of (id, context, question, answers). An empty answer is none. Misplaced answers, and questions that have
    no other, are left out; in ``held`` examples they stay, the answers behind the others and at place -1."""
    kept, misplaced, silent = [], [], 0                       # misplaced: for each answer the id of its question
    (name, often), = Counter(row[0] for row in rows).most_common(1) or [("", 0)]
    if often > 1:
        raise DataError(f"{place}: {often} questions have the id {name}")
    for row in rows:
        _, context, question, given = row
        answers = [(start, text) for start, text in given if text.strip()]
        silent += len(given) > len(answers) == 0
        if not question.strip() or not context.strip():
            raise DataError(f"{place}: question {row[0]}: no text in its question or its context")
        found = [(start, text) for start, text in answers if start >= 0 and context[start:start + len(text)] == text]
        misplaced += [row[0]] * (len(answers) - len(found))
        if held:
            found += [(-1, text) for start, text in answers if (start, text) not in found]
        if found or not answers:
            kept.append((*row[:3], found))
    if misplaced:
        rest = ("they count in the scores all the same" if held else
                f"left out, and with them {len(rows) - len(kept)} questions that have no other")
        notes.append(f"{place}: {len(misplaced)} answers are not in their context where answer_start says, as in question "
                     f"{misplaced[0]}; {rest}")
    if silent:
        notes.append(f"{place}: {silent} questions have an empty answer only; they count as questions without one")
    if not kept or not held and not any(row[3] for row in kept):
        raise DataError(f"{place}: no question with a usable answer")
    ids, contexts, questions, answers = map(list, zip(*kept))
    return Examples(ids, {"question": questions, "context": contexts}, answers)
