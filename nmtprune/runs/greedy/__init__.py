"""`greedy`: the loop (`loop.py`), what is checked before it (`setup.py`), orders, steps, curves, run folder."""
