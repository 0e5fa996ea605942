"""Remove the attention heads that a neural machine translation model does not need, and prove what was done."""
