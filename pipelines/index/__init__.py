"""The index of a corpus: templates, parts, generations, and how they are built, grown and kept."""
