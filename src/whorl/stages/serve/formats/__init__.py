"""How models write calls of tools and thoughts into their text, one file per format.

A reader is given an answer's text as it comes, cut at any place, and gives events: what is said,
what is thought, what is called. No character is lost but the format's own marks and the white space
around them, none is given twice, and what only looks like a call is said as text.
"""
