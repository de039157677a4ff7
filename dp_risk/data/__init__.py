"""Data: public schemas, the coding of rows, sources, splits and partitions."""
