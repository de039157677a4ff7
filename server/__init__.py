"""The federation server: it asks, adds up releases and watches every site's budget."""
