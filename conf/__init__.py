"""Hydra configuration: one folder a group, one YAML one constructor."""
