"""Multiple-choice reading in the layout of RACE (Lai et al. 2017): a JSON object a file, one article in each."""
from pathlib import Path

from data.errors import DataError
from data.files import json_row
from data.hub import load_split
from data.tasks import Examples, TaskData

REPOSITORY = "ehovy/race"
LETTERS = tuple("ABCDEFGHIJ")
LEVELS = ("middle", "high")


def read_race(folder=None):
    """The TaskData of a folder with train/ and dev/, files .txt or .json at any depth, or of the hub's RACE.

    Where the held-out files lie in middle/ and high/ the two are also scored apart.
    """
    if folder is None:
        train, dev = (_from_hub(part) for part in ("train", "validation"))
    else:
        train, dev = (_from_files(Path(folder) / part) for part in ("train", "dev"))
    options = {len(choices) for part in (train, dev) for choices in part.inputs["options"]}
    if len(options) != 1:
        raise DataError(f"{folder or REPOSITORY}: questions with {' and '.join(map(str, sorted(options)))} options; "
                        "all must have the same number")
    return TaskData("choice", train, dev, ("accuracy",))


def _from_files(folder):
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".json"))
    if not files:
        raise DataError(f"{folder}: no .txt or .json file of RACE there")
    rows = []
    for path in files:
        try:
            article = json_row(path.read_text(encoding="utf-8-sig"), str(path), '{"article": ...}')
            level = path.parent.name if path.parent.name in LEVELS else None
            for number, (question, options, answer) in enumerate(zip(
                    article["questions"], article["options"], article["answers"], strict=True)):
                if not isinstance(options, list):
                    raise TypeError(f"question {number}: its options are no list")
                if len(options) < 2 or answer not in LETTERS[:len(options)]:
                    raise ValueError(f"question {number}: answer '{answer}' of {len(options)} options")
                if not all(isinstance(text, str) for text in (article["article"], question, *options)):
                    raise TypeError(f"question {number}: a text that is none")
                if not (article["article"] + question).strip():
                    raise ValueError(f"question {number}: neither an article nor a question")
                rows.append((f"{article['id']}-{number}", level, article["article"], question, options,
                             LETTERS.index(answer)))
        except DataError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: not in the layout of RACE ({type(error).__name__}: {error})") from None
    if not rows:
        raise DataError(f"{folder}: no question in its {len(files)} files")
    return _examples(rows)


def _from_hub(part):
    rows = []
    for level in LEVELS:
        loaded = load_split(REPOSITORY, level, part, f"{REPOSITORY}:")
        rows += [(f"{row['example_id']}-{number}", level, row["article"], row["question"], row["options"],
                  LETTERS.index(row["answer"])) for number, row in enumerate(loaded)]
    return _examples(rows)


def _examples(rows):
    ids, levels, articles, questions, options, labels = map(list, zip(*rows))
    return Examples(ids, {"article": articles, "question": questions, "options": options}, labels,
                    levels if all(levels) else None)
