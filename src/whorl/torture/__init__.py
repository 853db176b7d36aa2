"""Attacks on a running server, each with a count of trials and what it must survive."""
