"""The kinds of fine-tuning task: each with its model, its loss and scores, and what the model's configuration says of it."""
from typing import NamedTuple

from albert import (AlbertForMultipleChoice, AlbertForQuestionAnswering, AlbertForSequenceClassification,
                    AlbertForTokenClassification)
from trainer.classification import Classification, MultiLabel, Regression
from trainer.questions import SpanAnswering
from trainer.tagging import Tagging


class Kind(NamedTuple):
    model: type
    task: type
    labels: dict


KINDS = {
    "classification": Kind(AlbertForSequenceClassification, Classification, {"problem_type": "single_label_classification"}),
    "multilabel": Kind(AlbertForSequenceClassification, MultiLabel, {"problem_type": "multi_label_classification"}),
    "regression": Kind(AlbertForSequenceClassification, Regression, {"problem_type": "regression", "num_labels": 1}),
    "tagging": Kind(AlbertForTokenClassification, Tagging, {}),
    "questions": Kind(AlbertForQuestionAnswering, SpanAnswering, {}),
    "choice": Kind(AlbertForMultipleChoice, Classification, {"num_labels": 1}),
}
