"""`l0`: one lambda after the other (`each_lambda`), what is checked before (`l0_setup`), and what it leads to."""
