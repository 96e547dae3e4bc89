"""Second-order statistics of a model's layers, streamed through ONNX Runtime.

* :mod:`~graphopt.statistics.layers`: Conv, ConvTranspose, Gemm, MatMul as one matrix problem;
* :mod:`~graphopt.statistics.unfold`: activations as its rows;
* :mod:`~graphopt.statistics.gram`: sums over the rows, in double precision;
* :mod:`~graphopt.statistics.replay`: a graph run over all samples piece by piece, each node once.
"""

from graphopt.statistics.collect import Moments, Statistics, channel_rows
from graphopt.statistics.gram import Gram
from graphopt.statistics.layers import Layer, bias_of, layer_of, layers, set_weights
from graphopt.statistics.replay import Replay
from graphopt.statistics.spill import Spill
from graphopt.statistics.unfold import Unfolder, output_rows, sampled

__all__ = [
    "Gram",
    "Layer",
    "Moments",
    "Replay",
    "Spill",
    "Statistics",
    "Unfolder",
    "bias_of",
    "channel_rows",
    "layer_of",
    "layers",
    "output_rows",
    "sampled",
    "set_weights",
]
