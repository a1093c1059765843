"""A corpus in the formats of other tools: one module each, and what they share."""
