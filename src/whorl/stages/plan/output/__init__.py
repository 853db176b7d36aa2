"""What a cluster plan looks like: the JSON document, the terminal, the page, two side by side."""
