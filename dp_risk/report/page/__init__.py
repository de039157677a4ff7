"""One self-contained page: bound figures, their forms and explanations, and reading it back."""
