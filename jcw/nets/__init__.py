"""Networks: one definition, in masked, switched and sliced form."""
