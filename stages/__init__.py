"""Stages: plain callables on Arrow tables that know nothing of Ray, Hydra or MLflow."""
