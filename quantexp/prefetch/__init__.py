"""``python -m quantexp prefetch``: what a sweep reads from the hub, fetched ahead; no torch."""
