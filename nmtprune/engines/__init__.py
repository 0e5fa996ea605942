"""Engines that run checkpoints."""
