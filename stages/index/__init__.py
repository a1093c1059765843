"""The vector index: sample, train, add, search and measure; functions over arrays and faiss indexes."""
