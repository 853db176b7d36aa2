"""Fakes of every port, and a tiny corpus. Nothing here is imported by the rest of whorl."""
