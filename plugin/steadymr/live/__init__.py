"""Scans that are still coming in: the same sentence as the pipeline's, and the server that stays resident."""
