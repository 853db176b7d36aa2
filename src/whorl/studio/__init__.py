"""The web page: plain files, served by stages.serve, no build step, no outside requests."""
