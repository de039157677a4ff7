"""`dp-risk federation`: what whoever runs the server does."""
