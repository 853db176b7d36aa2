"""Serving: from a target to engine, precision, split, replicas and price."""
