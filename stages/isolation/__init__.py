"""A process of its own for code that may crash, hang or balloon: what passes between it and its parent."""
