"""The score file: what every head, neuron or layer is worth under one metric."""

from nmtprune.scores.entries import DirectionScores, GroupScores, HeadScore, HeldOut
from nmtprune.scores.score_file import Scores, refuse_mix

__all__ = ["DirectionScores", "GroupScores", "HeadScore", "HeldOut", "Scores", "refuse_mix"]
