"""Questions, and what becomes of their answers: pure functions on plain values."""
