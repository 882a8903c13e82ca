"""What the figures of the README come from: `make bench`, or `python -m bench [NAME …]` for some of them."""
