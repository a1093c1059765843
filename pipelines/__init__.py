"""Pipelines: the DAGs of stages, the corpus they fill, and the command line."""
