"""Remove heads, neurons and layers that a neural machine translation model does not need; prove what was done."""
