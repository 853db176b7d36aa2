"""Wire formats, one file each: how a request of it becomes an `Ask`, and an answer its form."""
