"""Losses as formulas: divergences in variational form, adversarial pairs, embeddings, penalties."""
