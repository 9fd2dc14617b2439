import albert.openmp  # noqa: F401 (before torch)
from albert.config import AlbertConfig
from albert.errors import ModelError
from albert.models import (Albert, AlbertForMultipleChoice, AlbertForPretraining, AlbertForQuestionAnswering,
                           AlbertForSequenceClassification, AlbertForTokenClassification)
from albert.pipeline import pipeline
from albert.pretrained import checkpoint_folder, read_config

__all__ = ["Albert", "AlbertConfig", "AlbertForMultipleChoice", "AlbertForPretraining",
           "AlbertForQuestionAnswering", "AlbertForSequenceClassification", "AlbertForTokenClassification",
           "ModelError", "checkpoint_folder", "pipeline", "read_config"]
