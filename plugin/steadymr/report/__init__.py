"""What people read of a run: one self-contained HTML page, one summary.json, one overview picture."""
