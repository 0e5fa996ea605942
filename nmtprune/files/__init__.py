"""The one way in which nmtprune writes a file: whole or not at all."""

from nmtprune.files.atomic import atomic_output, check_output, make_folder, sha256_file, write_text

__all__ = ["atomic_output", "check_output", "make_folder", "sha256_file", "write_text"]
