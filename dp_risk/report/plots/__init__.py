"""Charts: facts in, SVG out."""
