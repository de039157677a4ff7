"""Metrics: exact and with baselines on public data, from noisy histograms on private data."""
