"""Accuracy from short trainings: fit a table of widths, know its error, choose what to train next."""

from jcw.accuracy.table import AccuracyTable, refit, untrained

__all__ = ['AccuracyTable', 'refit', 'untrained']
