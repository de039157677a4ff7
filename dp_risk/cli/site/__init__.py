"""`dp-risk site`: what a data holder does."""
