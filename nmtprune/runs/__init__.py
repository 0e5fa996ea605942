"""The loops behind the long commands: what they do step by step, keep on disk, and continue."""
