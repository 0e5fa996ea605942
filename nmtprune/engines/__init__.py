"""Engines that run checkpoints."""

from nmtprune.engines.base import Ablation, Engine, EngineSettings, Kept, Tokens, open_engine

__all__ = ["Ablation", "Engine", "EngineSettings", "Kept", "Tokens", "open_engine"]
