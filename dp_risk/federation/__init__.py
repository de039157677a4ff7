"""Folders, letters, certificates and signed requests of a federation of many machines."""
