"""Holds the folder that fairseq's --user-dir names; apart from the package, since fairseq imports it by its own name."""
