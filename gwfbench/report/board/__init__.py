"""Leaderboards as tables."""
