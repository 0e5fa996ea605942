"""`l0`: what is asked for and checked (`setup.py`), the loop (`loop.py`), what comes out of it (`results.py`)."""
