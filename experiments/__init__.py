"""The stages of a run, one script each, and `quickstart`, which chains them."""
