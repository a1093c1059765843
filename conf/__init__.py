"""The menu of configurations: one folder a choice, one file an option."""
