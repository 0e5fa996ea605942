"""Holds the folder that fairseq's --user-dir names; it stands apart, since fairseq imports it by its own name."""
