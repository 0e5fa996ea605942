"""What fairseq's ``--user-dir`` names: importing it registers nmtprune's models and lets torch load checkpoints."""

import nmtprune.fairseq_plugin  # noqa: F401  # imported for its effect
