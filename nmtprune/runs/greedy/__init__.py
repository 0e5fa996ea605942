"""`greedy`: the run (`loop.py`), what is checked before it (`setup.py`), orders, and the curves that they give."""
