"""Tests of models that are converted from one toolkit to another."""
