"""The demo: a page on which anyone can prune an image's visual tokens and see what comes of it."""
