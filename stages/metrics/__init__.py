"""Scores of captions, answers, rankings and labels: functions over texts and arrays.

They know nothing of files, corpora or configuration. Each gives `Scores`, which can be summed up, looked at
item by item, cut into groups and resampled.
"""
