"""The main job on a corpus that needs no download: what `make demo` runs."""
