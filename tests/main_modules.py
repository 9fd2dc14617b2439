"""What main-pretrain.py imports, for processes that are to start without delay."""
import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot                                      # noqa: E402, F401
import torch._dynamo                                             # noqa: E402, F401  what optimisers import when they are made
import torch.distributed.tensor                                  # noqa: E402, F401
from trainer import initial, loop, pretraining, run               # noqa: E402, F401
from data import sources, store                                   # noqa: E402, F401
