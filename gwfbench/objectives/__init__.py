"""Losses and targets as formulas: divergences, adversarial pairs, embeddings, penalties, Gaussian mixtures."""
