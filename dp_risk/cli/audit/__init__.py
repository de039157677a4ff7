"""`dp-risk audit`: scratch sites under watch, and what is tried on them."""
