"""The parts of the page on one model: each file makes one section from the files that it knows."""
