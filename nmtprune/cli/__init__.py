"""The command line: one file per command; click and rich live here."""
