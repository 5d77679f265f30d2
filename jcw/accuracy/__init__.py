"""Accuracy from short trainings: fit a table of widths, know its error, choose what to train next."""
