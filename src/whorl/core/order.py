"""The order of training rows: a pure function of (seed, step), the same for any layout.

A balanced Feistel network with a splitmix64 round function and cycle walking permutes the row
numbers of each epoch, so that any position costs O(1) and resuming needs one integer.
"""
