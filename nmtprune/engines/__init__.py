"""Engines that run checkpoints."""

from nmtprune.engines.base import Ablation, Engine, EngineSettings, Tokens, open_engine

__all__ = ["Ablation", "Engine", "EngineSettings", "Tokens", "open_engine"]
