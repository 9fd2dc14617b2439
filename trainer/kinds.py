"""The kinds of fine-tuning task: each with its model, its loss and scores, and what the model's configuration says of it."""
from albert import (AlbertForMultipleChoice, AlbertForQuestionAnswering, AlbertForSequenceClassification,
                    AlbertForTokenClassification)
from trainer.classification import Classification, MultiLabel, Regression
from trainer.questions import SpanAnswering
from trainer.tagging import Tagging

KINDS = {
    "classification": (AlbertForSequenceClassification, Classification, {"problem_type": "single_label_classification"}),
    "multilabel": (AlbertForSequenceClassification, MultiLabel, {"problem_type": "multi_label_classification"}),
    "regression": (AlbertForSequenceClassification, Regression, {"problem_type": "regression", "num_labels": 1}),
    "tagging": (AlbertForTokenClassification, Tagging, {}),
    "questions": (AlbertForQuestionAnswering, SpanAnswering, {}),
    "choice": (AlbertForMultipleChoice, Classification, {"num_labels": 1}),
}
