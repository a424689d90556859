"""The demonstration: readings of machines, from a file or of a plant made up here, played through the REST API."""
