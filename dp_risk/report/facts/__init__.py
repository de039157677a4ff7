"""What a report says, as JSON."""
