"""One volume: from its k-space to images with a verdict, whatever fails on the way."""
