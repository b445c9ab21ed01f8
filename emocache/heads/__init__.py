"""Heads: aligned matrices from a store, folds, training, metrics, runs."""
