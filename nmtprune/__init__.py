"""nmtprune removes the attention heads that a neural machine translation model does not need, and proves what it did."""
