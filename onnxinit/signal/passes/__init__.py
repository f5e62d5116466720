"""Passes over the signal that say what weights get: LSUV, filters learned from patches, balanced rates of change."""
