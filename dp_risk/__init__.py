"""dp-risk: risk models across data holders, with one honest epsilon."""

__version__ = "0.1.0"
