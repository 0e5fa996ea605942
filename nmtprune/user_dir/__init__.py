"""Holds the folder that fairseq's --user-dir names; it stands apart, since fairseq imports it by its own name."""

from pathlib import Path

USER_DIR = Path(__file__).resolve().parent / "nmtprune_fairseq"
