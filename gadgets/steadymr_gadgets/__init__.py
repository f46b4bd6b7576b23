"""Gadgetron entry modules: each takes a connection and hands it to the pipeline."""
