"""Parts of a transformer, built from a shape."""
