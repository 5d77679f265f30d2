"""Training: the supernet by sandwich rule and random mutation, and networks of one configuration."""
