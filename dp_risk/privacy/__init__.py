"""Mechanisms, accounting and the ledger: everything that may touch private rows, and its price."""
