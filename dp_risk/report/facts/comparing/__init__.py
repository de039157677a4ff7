"""How the facts of a comparison come about: rows, measures, and what would mislead."""
